"""SentencePiece models as tokenizer.json, held against the sentencepiece library."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tune_checkpoint import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.tokenizers.files import TokenizerFiles, detect_tokenizer, tokenizer_files_from

spm = pytest.importorskip("sentencepiece", reason="the reference library is not installed")

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the other foxes think of it",
    "def encode(self, text):\n    return [self.ids[t] for t in text]  # 12 of 3456",
    "don't say it's 12345 or 12; naïve café, Grüße aus 東京",
    "        if x == 10:\t\tprint('    ')",
    "مرحبا بالعالم and the 日本語 of the world",
] * 20
TEXTS = [
    "", " ", "   ", "the quick brown fox", " the", "  the  quick \n\n fox  ", "don't 12345 6", "DON'T",
    "def f(x):\n\treturn x  # no\r\n\r\n", "        return [\n            12,\n        ]", "the<tool>the[x]",
    " " * 37 + "x" + " " * 9, "Grüße, 世界 日本語", "مرحبا بالعالم", "🎉👩\u200d👩\u200d👧 🏳\ufe0f", "x" * 40,
    "naïve cafe\u0301 \u0915\u094d\u0937", "\x00\x01\x7f\x85\xa0\u3000\u2028", "\u2581the \u2581 \u2581",
    "<0x41> <unk <s", "the<tool>fox", "<tool>", "<tool> <tool><to", "  <tool>12", "\ufb01 \u2460 \uff21",
]  # fmt: skip
CONTROL = ("<s>", "</s>", "<unk>")
LLAMA = {
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "byte_fallback": True,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
}
"""As Llama 1 and 2 and Mistral were trained."""

SETTINGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "no prefix": LLAMA | {"add_dummy_prefix": False},
    "symbols": LLAMA | {"user_defined_symbols": ["<tool>", "the", "\n\n", "<to", "[x]"]},
    "symbols, no prefix": LLAMA | {"user_defined_symbols": ["<tool>", "é"], "add_dummy_prefix": False},
    "unknown": LLAMA | {"byte_fallback": False, "character_coverage": 0.98},
    "no extra spaces": LLAMA | {"remove_extra_whitespaces": True},
    "no extra spaces, no prefix": LLAMA | {"remove_extra_whitespaces": True, "add_dummy_prefix": False},
    "across words": LLAMA | {"split_by_whitespace": False, "split_by_unicode_script": False},
}

FRAGMENTS = [
    "the",
    " ",
    "  ",
    "fox",
    "<tool>",
    "return",
    "    ",
    "\n",
    "1",
    "23",
    "é",
    "東京",
    "\u2581",
    "<0x41",
]
texts = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4)), max_size=12).map("".join)

Made = tuple[Any, Tokenizer, TokenizerFiles]
"""The reference, ours, and all that was made."""


def train(**options: Any) -> bytes:
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, minloglevel=2, hard_vocab_limit=False,
        **({"model_type": "bpe", "vocab_size": 450} | options),
    )  # fmt: skip
    return model.getvalue()


def field(number: int, value: int | float | str | bytes) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    octets = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(octets)) + octets


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def piece(text: str, score: float = 0.0, kind: int = 1) -> bytes:
    return field(1, field(1, text) + field(2, score) + field(3, kind))


BYTES = b"".join(piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256))


def handmade(*pieces: bytes, normalizer: bytes = field(3, 1) + field(4, 0), trainer: bytes = b"") -> bytes:
    """A model with byte fallback, and these pieces after the usual three."""
    head = piece("<unk>", 0.0, 2) + piece("<s>", 0.0, 3) + piece("</s>", 0.0, 3)
    trainer_spec = field(3, 2) + field(35, 1) + trainer
    return head + BYTES + b"".join(pieces) + field(2, trainer_spec) + field(3, normalizer)


def make(path: Path, model: bytes) -> Made:
    path.write_bytes(model)
    made = tokenizer_files_from(path)
    ours = Tokenizer.from_str(made.files[0].content.decode())
    return spm.SentencePieceProcessor(model_proto=model), ours, made


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A function that gives the model of some settings, trained once."""
    folder = tmp_path_factory.mktemp("trained")
    models: dict[str, Made] = {}

    def get(name: str) -> Made:
        if name not in models:
            models[name] = make(folder / "tokenizer.model", train(**SETTINGS[name]))
        return models[name]

    return get


def assert_equal(made: Made, text: str):
    reference, ours, _ = made
    if any(token in text for token in CONTROL):
        return  # which only tokenizer.json finds in a text
    ids = reference.encode(text)
    assert ours.encode(text, add_special_tokens=False).ids == ids, text
    if reference.unk_id() not in ids:
        assert ours.decode(ids) == reference.decode(ids)


@pytest.mark.parametrize("name", SETTINGS)
def test_ids_and_text_are_those_of_sentencepiece(trained: Callable[[str], Made], name: str):
    made = trained(name)
    for text in [*TEXTS, *CORPUS[:5]]:
        assert_equal(made, text)
    assert len(made[2].warnings) == 1, "the missing chat template alone"


@pytest.mark.parametrize("name", ["llama", "no prefix", "symbols", "unknown", "no extra spaces"])
def test_any_text_gets_the_ids_of_sentencepiece(trained: Callable[[str], Made], name: str):
    made = trained(name)

    @given(text=texts)
    def check(text: str):
        assert_equal(made, text)

    check()


@given(text=texts)
def test_any_text_survives(trained: Callable[[str], Made], text: str):
    _, ours, _ = trained("llama")
    ids = ours.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids, skip_special_tokens=False) == text.replace("\u2581", " ")


def test_text_that_spells_the_token_of_a_byte_stays_text(trained: Callable[[str], Made]):
    assert_equal(trained("no prefix"), "<0x41>")


def test_bytes_that_are_no_character_become_the_replacement_character(trained: Callable[[str], Made]):
    reference, ours, _ = trained("llama")
    for octets in ([0xE6], [0xFF, 0xFE], [0x41], [0xC3, 0xA9]):
        ids = [reference.piece_to_id(f"<0x{octet:02X}>") for octet in octets]
        assert ours.decode(ids) == reference.decode(ids)


def test_control_tokens_in_a_text_are_found_and_only_the_beginning_gets_a_space(
    trained: Callable[[str], Made],
):
    reference, ours, _ = trained("llama")
    first, rest = reference.encode("the fox"), ours.encode("the fox</s>the</s> fox").ids
    # What follows a control token has no space of its own.
    the = [reference.piece_to_id(letters) for letters in ours.encode("</s>the").tokens[2:]]
    assert reference.decode(the) == "the"
    assert the[0] != reference.encode("the")[0]
    assert rest == [1, *first, 2, *the, 2, *reference.encode("fox")]
    assert ours.decode(rest) == "the foxthe fox"


def test_bos_is_added_and_ids_are_named(trained: Callable[[str], Made]):
    reference, ours, made = trained("llama")
    assert ours.encode("the").ids == [1, *reference.encode("the")]
    assert (made.ids, made.end_ids, made.vocab_size) == (
        {"unk": 0, "bos": 1, "eos": 2},
        [2],
        reference.vocab_size(),
    )


def test_ids_come_from_the_pieces_that_the_file_names(tmp_path: Path):
    model = train(
        **LLAMA, pad_id=0, bos_id=1, eos_id=-1, unk_id=2, bos_piece="<begin>", pad_piece="<fill>",
        unk_piece="<what>",
    )  # fmt: skip
    reference, ours, made = make(tmp_path / "m", model)
    assert made.ids == {"pad": 0, "bos": 1, "unk": 2}
    assert made.end_ids == []
    assert ours.encode("the").ids == [1, *reference.encode("the")]
    config = json.loads(made.files[1].content)
    assert (config["bos_token"], config["pad_token"], config["unk_token"]) == ("<begin>", "<fill>", "<what>")
    assert "eos_token" not in config


def test_what_the_file_leaves_out_is_as_the_format_has_it(tmp_path: Path):
    letters = [piece(letter, -1.0 - index) for index, letter in enumerate("\u2581ab")]
    made = make(tmp_path / "m", handmade(*letters, normalizer=b""))
    for text in ("", " ", "a  b ", "  a", "\u2581a", "\u2581"):
        assert_equal(made, text)


def test_runs_of_spaces_that_share_a_score_grow_from_their_beginning(tmp_path: Path):
    # Llama 2 and Mistral have fifteen such pieces, all with this score.
    runs = [piece("\u2581" * length, -1e9) for length in range(2, 17)]
    letters = [piece(letter, -100.0 - index) for index, letter in enumerate("\u2581abc")]
    made = make(tmp_path / "m", handmade(piece("\u2581a", -1.0), *runs, *letters))
    for length in range(70):
        assert_equal(made, " " * length)
        assert_equal(made, "b" + " " * length + "a")
    assert len(made[2].warnings) == 1


@given(
    vocabulary=st.lists(st.text("ab\u2581", min_size=2, max_size=6), unique=True, max_size=12),
    text=st.text("ab ", max_size=25),
)
@example(vocabulary=["ba", "ab", "aba"], text="ababab aba")
def test_pieces_merge_in_the_order_of_their_scores(
    tmp_path_factory: pytest.TempPathFactory, vocabulary: list[str], text: str
):
    pieces = [piece(token, -1.0 - index) for index, token in enumerate([*vocabulary, "\u2581", "a", "b"])]
    made = make(tmp_path_factory.mktemp("merges") / "m", handmade(*pieces))
    if len(made[2].warnings) == 1:
        assert_equal(made, text)


def warning_of(tmp_path: Path, model: bytes) -> str:
    return make(tmp_path / "m", model)[2].warnings[0]


def test_what_cannot_be_expressed_is_warned_of(tmp_path: Path):
    assert "table" in warning_of(tmp_path, train(**LLAMA | {"normalization_rule_name": "nmt_nfkc"}))
    spaced = LLAMA | {"remove_extra_whitespaces": True, "user_defined_symbols": ["a  b"]}
    assert "user-defined" in warning_of(tmp_path, train(**spaced))
    letters = piece("a", -3.0) + piece("b", -4.0)
    assert "have the score -1.0" in warning_of(
        tmp_path, handmade(piece("ab", -1.0), piece("ba", -1.0), letters)
    )
    assert "'bc' the first" in warning_of(tmp_path, handmade(piece("bc", -1.0), letters))


def test_normalized_text_gets_equal_ids_for_all_but_rare_combinations(tmp_path: Path):
    made = make(tmp_path / "m", train(**LLAMA | {"normalization_rule_name": "nmt_nfkc"}))
    for text in TEXTS:
        if "\u200d" not in text and "\r\n" not in text:
            assert_equal(made, text)


def test_other_models_are_refused_by_name(tmp_path: Path):
    path = tmp_path / "m"
    for trainer, normalizer, reason in (
        (field(3, 1), b"", "model_type UNIGRAM; BPE"),
        (field(3, 9), b"", "model_type 9"),
        (field(24, 1), b"", "treat_whitespace_as_suffix"),
        (b"", field(5, 0), "escape_whitespaces"),
    ):
        path.write_bytes(handmade(trainer=trainer, normalizer=normalizer))
        with pytest.raises(UnsupportedCheckpointError, match=reason):
            tokenizer_files_from(path)
    path.write_bytes(handmade(piece("a", 0.0, 5)))
    with pytest.raises(UnsupportedCheckpointError, match="UNUSED"):
        tokenizer_files_from(path)


def test_contradicting_pieces_are_refused(tmp_path: Path):
    path = tmp_path / "m"
    for pieces, reason in (
        ([piece("a"), piece("a")], "'a' stands there twice"),
        ([piece("")], "0 characters"),
        ([piece("a" * 1025)], "1025 characters"),
        ([piece("a", float("nan"))], "score nan"),
        ([piece("a", 0.0, 7)], "unknown type 7"),
        ([piece("b", 0.0, 2)], "one piece for what is unknown"),
        ([piece("<0xZZ>", 0.0, 6)], "257 pieces stand for bytes"),
    ):
        path.write_bytes(handmade(*pieces))
        with pytest.raises(CorruptFileError, match=reason):
            tokenizer_files_from(path)


def test_transformers_and_recipes_load_the_folder(trained: Callable[[str], Made], tmp_path: Path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from tune_recipes.tokenizer import Tokenizer as RecipesTokenizer

    reference, _, _ = trained("llama")
    (tmp_path / "tokenizer.model").write_bytes(reference.serialized_model_proto())
    made = tokenizer_files_from(tmp_path / "tokenizer.model", max_length=64, chat_template="{{ messages }}")
    (tmp_path / "tokenizer.model").unlink()
    for file in made.files:
        (tmp_path / file.name).write_bytes(file.content)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, PreTrainedTokenizerFast)
    recipes = RecipesTokenizer(tmp_path)
    for text in (" the fox", "the quick  fox"):
        assert theirs(text)["input_ids"] == [1, *reference.encode(text)] == recipes.encode(text)
        assert theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True) == text
    named = (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id, theirs.pad_token_id)
    assert named == (1, 2, 0, None)
    assert (theirs.model_max_length, theirs.chat_template) == (64, "{{ messages }}")
    assert (recipes.bos_id, recipes.eos_ids, recipes.vocab_size) == (1, (2,), made.vocab_size)
    assert recipes.chat_template == "{{ messages }}"
    assert made.warnings == []


def test_sizes_are_held_against_the_embedding(tmp_path: Path):
    path = tmp_path / "m"
    path.write_bytes(handmade(piece("a")))
    assert detect_tokenizer(path) == "sentencepiece"
    assert tokenizer_files_from(path, vocab_size=260).vocab_size == 260
    with pytest.raises(CorruptFileError, match="260 tokens, but the embedding has 259 rows"):
        tokenizer_files_from(path, vocab_size=259)
