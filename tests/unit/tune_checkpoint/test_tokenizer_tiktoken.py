"""Tables of tokens and ranks (Llama 3, tekken.json) as tokenizer.json, held against the tiktoken library."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tune_checkpoint import CorruptFileError
from tune_checkpoint.tokenizers.bpe import byte_characters
from tune_checkpoint.tokenizers.files import TokenizerFiles, detect_tokenizer, tokenizer_files_from
from tune_checkpoint.tokenizers.tiktoken import special_tokens

tiktoken = pytest.importorskip("tiktoken", reason="the reference library is not installed")

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
TEKKEN_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the other foxes think of it",
    "def encode(self, text):\n    return [self.ids[t] for t in text]  # 12 of 3456",
    "don't say it's 12345 or 12; naïve café, Grüße aus 東京",
    "        if x == 10:\t\tprint('    ')\n\n\n",
    "مرحبا بالعالم and the 日本語 of the world",
] * 20
TEXTS = [
    "", " ", "   ", "the quick brown fox", " the", "  the  quick \n\n fox  ", "don't 12345 6", "DON'T 'S",
    "def f(x):\n\treturn x  # no\r\n\r\n", "        return [\n            12,\n        ]", "thethethe",
    " " * 37 + "x" + " " * 9, "Grüße, 世界 日本語", "مرحبا بالعالم", "🎉👩\u200d👩\u200d👧 🏳\ufe0f", "x" * 40,
    "naïve cafe\u0301 \u0915\u094d\u0937", "\x00\x01\x7f\x85\xa0\u3000\u2028", "aBCd/\n/", "¹²½",
]  # fmt: skip
FRAGMENTS = [
    "the",
    " ",
    "  ",
    "fox",
    "return",
    "    ",
    "\n",
    "\r\n",
    "1",
    "234",
    "é",
    "東京",
    "'s",
    "'S",
    "<|eot_id|>",
]
texts = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4)), max_size=12).map("".join)


def train(pattern: str) -> list[bytes]:
    """Tokens in the order of their ranks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    byte_of = {character: byte for byte, character in byte_characters().items()}
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [bytes(byte_of[character] for character in token) for token, _ in tokens]


TOKENS = train(LLAMA3_PATTERN)


def table(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def tekken(tokens: list[bytes], **changes: Any) -> dict[str, Any]:
    config = {
        "pattern": TEKKEN_PATTERN,
        "num_vocab_tokens": len(tokens),
        "default_vocab_size": 25 + len(tokens),
        "default_num_special_tokens": 25,
        "version": "v3",
    }
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate(tokens)
    ]
    return {"config": config | changes, "vocab": vocab}


def made_from(path: Path, content: bytes, **options: Any) -> tuple[Tokenizer, TokenizerFiles]:
    path.write_bytes(content)
    made = tokenizer_files_from(path, **options)
    return Tokenizer.from_str(made.files[0].content.decode()), made


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer, TokenizerFiles]:
    """The reference, ours, and all that was made."""
    special = {token: len(TOKENS) + index for index, token in enumerate(special_tokens("llama3.1"))}
    ranks = {token: rank for rank, token in enumerate(TOKENS)}
    reference = tiktoken.Encoding("x", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=special)
    return reference, *made_from(tmp_path_factory.mktemp("llama3") / "tokenizer.model", table(TOKENS))


Llama3 = tuple[Any, Tokenizer, TokenizerFiles]


def test_ids_and_text_are_those_of_tiktoken(llama3: Llama3):
    reference, ours, _ = llama3
    specials = ["a<|eot_id|>b", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi", "<|eot_id"]
    for text in [*TEXTS, *CORPUS[:5], *specials]:
        ids = reference.encode(text, allowed_special="all")
        assert ours.encode(text, add_special_tokens=False).ids == ids, text
        assert ours.decode(ids, skip_special_tokens=False) == text


@given(text=texts)
def test_any_text_gets_the_ids_of_tiktoken(llama3: Llama3, text: str):
    reference, ours, _ = llama3
    ids = reference.encode(text, allowed_special="all")
    assert ours.encode(text, add_special_tokens=False).ids == ids
    assert ours.decode(ids, skip_special_tokens=False) == text


@given(ids=st.lists(st.integers(0, len(TOKENS) - 1), max_size=12))
def test_any_ids_become_the_text_of_tiktoken(llama3: Llama3, ids: list[int]):
    reference, ours, _ = llama3
    assert ours.decode(ids) == reference.decode(ids)


@given(
    extra=st.lists(st.text("ab", min_size=2, max_size=6), unique=True, max_size=12),
    text=st.text("ab", max_size=25),
)
@example(extra=["aba"], text="aba")
def test_tokens_join_in_the_order_of_their_ranks(
    tmp_path_factory: pytest.TempPathFactory, extra: list[str], text: str
):
    tokens = [*(bytes([byte]) for byte in range(256)), *(token.encode() for token in extra)]
    ours, _ = made_from(tmp_path_factory.mktemp("ranks") / "m", table(tokens))
    ranks = {token: rank for rank, token in enumerate(tokens)}
    reference = tiktoken.Encoding("x", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    assert ours.encode(text, add_special_tokens=False).ids == reference.encode(text)


def test_merges_are_those_of_transformers(tmp_path: Path):
    from transformers.convert_slow_tokenizer import TikTokenConverter

    _, made = made_from(tmp_path / "m", table([*TOKENS, b"wxy", b"wx", b"yz", b"wxyz"]))
    vocab, merges = TikTokenConverter().extract_vocab_merges_from_model(str(tmp_path / "m"))
    model = json.loads(made.files[0].content)["model"]
    assert [tuple(merge) for merge in model["merges"]] == merges
    assert vocab.items() <= model["vocab"].items()


def test_special_tokens_are_named_as_the_generation_has_them(llama3: Llama3, tmp_path: Path):
    _, new, made_new = llama3
    old, made_old = made_from(tmp_path / "m", table(TOKENS), generation="llama3")
    size = len(TOKENS)
    # From the tokenizer.json of Llama-3.2-1B and Meta-Llama-3-8B; ids less 128000.
    both = {0: "begin_of_text", 1: "end_of_text", 2: "reserved_special_token_0", 6: "start_header_id",
            7: "end_header_id", 9: "eot_id"}  # fmt: skip
    new_names = {4: "finetune_right_pad_id", 5: "reserved_special_token_2", 8: "eom_id", 10: "python_tag",
                 11: "reserved_special_token_3", 255: "reserved_special_token_247"}  # fmt: skip
    old_names = {4: "reserved_special_token_2", 5: "reserved_special_token_3", 8: "reserved_special_token_4",
                 10: "reserved_special_token_5", 255: "reserved_special_token_250"}  # fmt: skip
    for tokenizer, names in ((new, both | new_names), (old, both | old_names)):
        for index, name in names.items():
            assert tokenizer.token_to_id(f"<|{name}|>") == size + index, name
        assert tokenizer.get_vocab_size() == size + 256
        assert all(token.special for token in tokenizer.get_added_tokens_decoder().values())
    assert made_new.ids == {"bos": size, "eos": size + 1, "pad": size + 4}
    assert made_new.end_ids == [size + 1, size + 8, size + 9]
    assert made_old.ids == {"bos": size, "eos": size + 1}
    assert made_old.end_ids == [size + 1, size + 9]


def test_what_the_file_does_not_tell_is_warned_of(llama3: Llama3, tmp_path: Path):
    warnings = llama3[2].warnings
    assert [warning.split(":")[0] for warning in warnings] == ["tokenizer.json", "chat_template.jinja"]
    assert f"{len(TOKENS)} tokens, Llama 3's 128000" in warnings[0]
    assert "does not tell whether the model was tuned to chat" in warnings[1]
    _, made = made_from(tmp_path / "m", table(TOKENS), chat_template="{{ bos_token }}")
    assert made.files[2].name == "chat_template.jinja"
    assert len(made.warnings) == 1


def test_tekken_ids_and_text_are_those_of_tiktoken(tmp_path: Path):
    # The last ten tokens have no room in the vocabulary.
    content = tekken(TOKENS, default_vocab_size=25 + len(TOKENS) - 10)
    ours, made = made_from(tmp_path / "tekken.json", json.dumps(content).encode())
    ranks = {token: rank for rank, token in enumerate(TOKENS[:-10])}
    reference = tiktoken.Encoding("x", pat_str=TEKKEN_PATTERN, mergeable_ranks=ranks, special_tokens={})
    for text in [*TEXTS, *CORPUS[:5]]:
        ids = [25 + rank for rank in reference.encode(text)]
        assert ours.encode(text, add_special_tokens=False).ids == ids, text
        assert ours.decode(ids) == text
    assert detect_tokenizer(tmp_path / "tekken.json") == "tekken"
    assert made.ids == {"unk": 0, "bos": 1, "eos": 2, "pad": 11}
    assert made.vocab_size == 25 + len(ranks)
    named = [
        ours.token_to_id(token) for token in ("[INST]", "[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_24>")
    ]
    assert named == [3, 19, 20, 24]
    assert ours.encode("[INST]the").ids[:2] == [1, 3]


def test_tekken_takes_the_special_tokens_that_the_file_names(tmp_path: Path):
    content = tekken(TOKENS, default_num_special_tokens=3, default_vocab_size=300)
    names = ["<s>", "[THINK]"]
    content["special_tokens"] = [
        {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)
    ]
    ours, made = made_from(tmp_path / "tekken.json", json.dumps(content).encode(), vocab_size=300)
    assert made.ids == {"bos": 0}
    assert [ours.id_to_token(index) for index in range(3)] == [*names, "<SPECIAL_2>"]
    for name in ("<s>", ""):
        content["special_tokens"][1]["token_str"] = name
        with pytest.raises(CorruptFileError, match=f"the special token '{name}' is empty or another token"):
            made_from(tmp_path / "tekken.json", json.dumps(content).encode())
    content["special_tokens"][1]["rank"] = 2
    with pytest.raises(CorruptFileError, match=r"special_tokens\[1\] has rank 2"):
        made_from(tmp_path / "tekken.json", json.dumps(content).encode())


def test_contradictions_in_a_tekken_file_are_refused(tmp_path: Path):
    path = tmp_path / "tekken.json"
    for changes, reason in (
        ({"default_num_special_tokens": 19}, "is 19; at least the 20"),
        ({"default_num_special_tokens": 10**9}, "at most 10000"),
        ({"default_vocab_size": 25}, "leaves 0 ordinary ones"),
        ({"default_vocab_size": 10**9}, f"and there are {len(TOKENS)}"),
        ({"pattern": 7}, r"Expected `str`, got `int` - at `\$.config.pattern`"),
    ):
        with pytest.raises(CorruptFileError, match=reason):
            made_from(path, json.dumps(tekken(TOKENS, **changes)).encode())
    content = tekken(TOKENS)
    content["vocab"][300]["rank"] = 7
    with pytest.raises(CorruptFileError, match=r"vocab\[300\] has rank 7"):
        made_from(path, json.dumps(content).encode())
    content = tekken([*TOKENS, b"<s>"])
    with pytest.raises(CorruptFileError, match="special token '<s>'"):
        made_from(path, json.dumps(content).encode())


def test_broken_tables_are_refused_with_the_line(tmp_path: Path):
    lines = table(TOKENS).splitlines(keepends=True)
    for number, line, reason in (
        (300, b"no base64! 299\n", "line 300 is no token"),
        (300, b"YWI 299\n", "line 300: b'YWI' is not base64"),
        (300, b"YWI= -1\n", "line 300 is no token"),
        (300, base64.b64encode(b"x" * 1025) + b" 299\n", "line 300: a token of 1025 bytes"),
        (300, b"enp6 298\n", "line 300 gives rank 298 a second time"),
        (300, b"enp6 999999\n", "no line has rank 299"),
        (300, base64.b64encode(TOKENS[400]) + b" 299\n", "rank 299 stands there twice"),
        (1, b"enp6 0\n", "no token stands for the byte 0x21"),
    ):
        content = [*lines[: number - 1], line, *lines[number:]]
        with pytest.raises(CorruptFileError, match=reason):
            made_from(tmp_path / "m", b"".join(content))


def test_sizes_are_held_against_the_embedding(llama3: Llama3, tmp_path: Path):
    size = len(TOKENS) + 256
    assert llama3[2].vocab_size == size
    made_from(tmp_path / "m", table(TOKENS), vocab_size=size)
    with pytest.raises(CorruptFileError, match=f"{size} tokens, but the embedding has {size - 1} rows"):
        made_from(tmp_path / "m", table(TOKENS), vocab_size=size - 1)


def test_transformers_and_recipes_load_the_folder(llama3: Llama3, tmp_path: Path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from tune_recipes.tokenizer import Tokenizer as RecipesTokenizer

    reference, _, made = llama3
    for file in made.files:
        (tmp_path / file.name).write_bytes(file.content)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, PreTrainedTokenizerFast)
    recipes = RecipesTokenizer(tmp_path)
    text = " the fox<|eot_id|> 123"
    expected = [made.ids["bos"], *reference.encode(text, allowed_special="all")]
    assert theirs(text)["input_ids"] == expected == recipes.encode(text)
    assert theirs.decode(expected, skip_special_tokens=True) == " the fox 123"
    named = {"bos": theirs.bos_token_id, "eos": theirs.eos_token_id, "pad": theirs.pad_token_id}
    assert named == made.ids == {"bos": recipes.bos_id, "eos": recipes.eos_id, "pad": recipes.pad_id}
    assert theirs.unk_token_id is None
    assert recipes.vocab_size == made.vocab_size
