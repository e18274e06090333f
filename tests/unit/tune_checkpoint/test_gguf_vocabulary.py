"""Tokenizers that go into a GGUF file and back, held against the tokenizers and sentencepiece libraries."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.tokenization_utils_base import generate_merges

from gguf_samples import fields, read_file
from tokenizer_samples import LEADING_SPACES, QWEN2_SPLIT, TEXTS, byte_level, write_sentencepiece
from tune_checkpoint import CheckpointError, CorruptFileError, convert, plan_conversion
from tune_checkpoint.gguf.scores import scores_from_merges
from tune_checkpoint.gguf.vocabulary import SPLIT_NAMES
from tune_checkpoint.tokenizers.files import tokenizer_files_from
from tune_checkpoint.tokenizers.splits import LLAMA3_SPLIT, TEKKEN_SPLIT

WriteLlama = Callable[..., Any]

SIZE = 320


class Folder:
    """A Hugging Face folder with the weights of a small model, to which tokenizer files are added."""

    def __init__(self, write_llama: WriteLlama, path: Path, vocab: int) -> None:
        self.path = path / "hf"
        convert(write_llama(vocab=vocab, path=path / "weights.gguf").path, self.path)
        self._out = path

    def add(self, **files: Any) -> None:
        """Write JSON files: `tokenizer=` makes tokenizer.json."""
        for name, content in files.items():
            (self.path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")

    def to_gguf(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The metadata of the GGUF file, as the gguf package reads it, and the warnings."""
        result = convert(self.path, self._out / "gguf", to="gguf")
        return tokenizer_fields(self._out / "gguf"), result.warnings

    def metadata_of_copy(self) -> dict[str, Any]:
        """The metadata of a GGUF file that is made of that one."""
        convert(self._out / "gguf", self._out / "copy", to="gguf")
        return tokenizer_fields(self._out / "copy")

    def back(self) -> Tokenizer:
        """The tokenizer that is made from the GGUF file."""
        convert(self._out / "gguf", self._out / "back")
        return Tokenizer.from_file(str(self._out / "back" / "tokenizer.json"))


def tokenizer_fields(folder: Path) -> dict[str, Any]:
    found = {name.removeprefix("tokenizer."): value for name, value in fields(read_file(folder)).items()}
    return {name.removeprefix("ggml."): value for name, value in found.items()}


@pytest.fixture
def folder(write_llama: WriteLlama, tmp_path: Path) -> Folder:
    return Folder(write_llama, tmp_path, SIZE)


def assert_same_ids(made: Tokenizer, original: Tokenizer, texts: list[str]) -> None:
    for text in texts:
        ids = original.encode(text, add_special_tokens=False).ids
        assert made.encode(text, add_special_tokens=False).ids == ids, repr(text)
        assert made.decode(ids, skip_special_tokens=False) == original.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("split", "name"),
    [(None, "gpt-2"), ("digits", "smollm"), (LLAMA3_SPLIT, "llama-bpe"), (TEKKEN_SPLIT, "tekken")],
)
def test_byte_level_ids_survive_the_way_there_and_back(folder: Folder, split: str | None, name: str):
    original = byte_level(split, SIZE)
    folder.add(tokenizer=json.loads(original.to_str()), tokenizer_config={"eos_token": "<|end|>"})
    found, warnings = folder.to_gguf()
    assert (found["model"], found["pre"], found["eos_token_id"]) == ("gpt2", name, 0)
    assert folder.metadata_of_copy()["pre"] == name
    assert found["tokens"] == [original.id_to_token(index) for index in range(SIZE)]
    assert found["token_type"] == [3, 3, *[1] * (SIZE - 3), 4]
    assert warnings == ()
    assert_same_ids(folder.back(), original, [*TEXTS, *LEADING_SPACES, "", "\x00"])


def test_qwen2s_way_to_split_and_to_normalise_survives(folder: Folder):
    tokenizer = byte_level(QWEN2_SPLIT, SIZE)
    tokenizer.normalizer = normalizers.NFC()
    folder.add(tokenizer=json.loads(tokenizer.to_str()))
    found, warnings = folder.to_gguf()
    assert found["pre"] == "qwen2"
    assert warnings == ()
    assert_same_ids(folder.back(), tokenizer, [*TEXTS, *LEADING_SPACES, ""])
    assert set(SPLIT_NAMES) == {LLAMA3_SPLIT, TEKKEN_SPLIT, QWEN2_SPLIT}


@pytest.mark.parametrize(
    "steps",
    [
        [pre_tokenizers.Split(Regex(r"\w+"), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)],
        [pre_tokenizers.ByteLevel(add_prefix_space=True)],
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    ],
)
def test_unknown_way_to_split_is_warned_of(folder: Folder, steps: list[Any]):
    tokenizer = byte_level(None, SIZE)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    folder.add(tokenizer=json.loads(tokenizer.to_str()))
    found, warnings = folder.to_gguf()
    assert found["pre"] == "default"
    assert [warning for warning in warnings if "splits text in a way that has no name here" in warning]


def test_sentencepiece_model_survives_the_way_there_and_back(write_llama: WriteLlama, tmp_path: Path):
    folder = Folder(write_llama, tmp_path, 400)
    path = write_sentencepiece(tmp_path / "tokenizer.model", 400)
    for file in tokenizer_files_from(path).files:
        (folder.path / file.name).write_bytes(file.content)
    found, warnings = folder.to_gguf()
    assert not [warning for warning in warnings if warning.startswith("tokenizer.json")]
    assert (found["model"], found["add_space_prefix"], found["add_bos_token"]) == ("llama", True, True)
    assert "merges" not in found  # they follow from the scores
    assert (found["unknown_token_id"], found["bos_token_id"], found["eos_token_id"]) == (0, 1, 2)
    assert found["token_type"][:4] == [2, 3, 3, 6]
    assert_same_order_as_sentencepiece(path, found)
    original = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
    # A leading space is taken for the prefix; transformers reads the file in the same way.
    assert_same_ids(folder.back(), original, TEXTS)


def test_tokenizer_json_is_made_where_there_is_only_a_sentencepiece_model(
    write_llama: WriteLlama, tmp_path: Path
):
    folder = Folder(write_llama, tmp_path, 400)
    path = write_sentencepiece(folder.path / "tokenizer.model", 400)
    folder.add(tokenizer_config={"bos_token": "<s>", "chat_template": "mine"})
    found, warnings = folder.to_gguf()
    assert not [warning for warning in warnings if warning.startswith("tokenizer.json")]
    assert (found["chat_template"], found["bos_token_id"]) == ("mine", 1)
    assert_same_order_as_sentencepiece(path, found)


def assert_same_order_as_sentencepiece(path: Path, found: dict[str, Any]) -> None:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert found["tokens"] == [model.id_to_piece(index) for index in range(model.vocab_size())]
    joined = [index for index in range(259, model.vocab_size()) if len(found["tokens"][index]) > 1]
    by_theirs = sorted(joined, key=lambda index: (-model.get_score(index), index))
    by_ours = sorted(joined, key=lambda index: (-found["scores"][index], index))
    assert by_ours == by_theirs


@given(
    st.dictionaries(
        st.text("abc\u2581", min_size=1, max_size=5), st.sampled_from([-1.0, -2.0, -3.0, -4.0]), max_size=40
    )
)
def test_merges_give_scores_that_give_the_merges_again(scores: dict[str, float]):
    vocab = {token: index for index, token in enumerate(scores)}
    merges = generate_merges(vocab, scores)
    again = scores_from_merges(vocab, merges)
    assert again.are_exact
    assert again.are_complete
    assert generate_merges(vocab, again.by_token) == merges


def test_merges_that_scores_cannot_stand_for_are_kept_beside_them(folder: Folder):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581abc"]
    # "abc" could also be made of a and bc: no merge does so, but scores would.
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]
    tokenizer.model = models.BPE(
        {token: index for index, token in enumerate([*tokens, "bc", "ab", "abc"])},
        merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True,
    )  # fmt: skip
    folder.add(tokenizer=json.loads(tokenizer.to_str()), tokenizer_config={"unk_token": "<unk>"})
    found, warnings = folder.to_gguf()
    assert found["merges"] == ["b c", "a b", "ab c"]
    assert [warning for warning in warnings if "do not follow from scores" in warning]
    assert found["add_space_prefix"] is True
    made = folder.back()
    for text in ("abc", "ab c", "cab bcabc", "bbc", "é"):
        assert made.encode(text).ids == tokenizer.encode(text).ids


def test_rows_without_a_token_are_filled_and_tokens_without_a_row_left_out(folder: Folder):
    content = json.loads(byte_level(None, SIZE).to_str())
    content["added_tokens"].append(content["added_tokens"][0] | {"id": SIZE + 5, "content": "<beyond>"})
    last = "".join(content["model"]["merges"].pop())
    lost = content["model"]["vocab"].pop(last)
    folder.add(tokenizer=content)
    found, warnings = folder.to_gguf()
    assert (found["tokens"][lost], found["token_type"][lost]) == (f"[PAD{lost}]", 5)
    assert [warning for warning in warnings if "1 added tokens (<beyond>) have ids beyond the 320" in warning]
    made = folder.back()
    assert made.get_vocab_size() == SIZE
    assert (
        made.encode(f"[PAD{lost}]").ids == Tokenizer.from_str(json.dumps(content)).encode(f"[PAD{lost}]").ids
    )


def test_ends_and_special_tokens_are_taken_from_where_they_stand(folder: Folder):
    tokenizer = byte_level(LLAMA3_SPLIT, SIZE)
    tokenizer.add_special_tokens(["<|eom_id|>"])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|user|> $A <|end|>", pair="$A $B", special_tokens=[("<|user|>", 1), ("<|end|>", 0)]
            ),
        ]
    )
    content = json.loads(tokenizer.to_str())
    assert content["added_tokens"][-1]["id"] == SIZE
    content["added_tokens"][-1]["id"] = SIZE - 2
    folder.add(
        tokenizer=content,
        tokenizer_config={"bos_token": {"content": "<|user|>"}, "pad_token": None, "chat_template": "old"},
        special_tokens_map={"eos_token": "<|end|>", "bos_token": "<|end|>"},
        generation_config={"eos_token_id": [0, SIZE - 2, 7], "pad_token_id": 5},
    )
    (folder.path / "chat_template.jinja").write_text("{{ messages }}é", encoding="utf-8")
    found, warnings = folder.to_gguf()
    assert warnings == ()
    ids = {name: value for name, value in found.items() if name.endswith("_token_id")}
    assert ids == {
        "bos_token_id": 1,
        "eos_token_id": 0,
        "padding_token_id": 5,
        "eom_token_id": SIZE - 2,
        "eot_token_id": 7,
    }
    assert (found["add_bos_token"], found["add_eos_token"]) == (True, True)
    assert found["chat_template"] == "{{ messages }}é"


def test_other_special_tokens_at_the_ends_are_not_taken_for_bos_and_eos(folder: Folder):
    tokenizer = byte_level(None, SIZE)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|user|> $A <|user|>", pair="$A $B", special_tokens=[("<|user|>", 1)]
    )
    named = {"bos_token": "<|end|>", "eos_token": "<|end|>", "add_bos_token": True}
    folder.add(tokenizer=json.loads(tokenizer.to_str()), tokenizer_config=named)
    found, _ = folder.to_gguf()
    assert (found["add_bos_token"], found["add_eos_token"]) == (False, False)


@pytest.mark.parametrize(
    ("template", "expected"),
    [("plain", "plain"), ([{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}], "d")],
)
def test_chat_template_of_the_tokenizer_config_is_taken(folder: Folder, template: Any, expected: str):
    folder.add(
        tokenizer=json.loads(byte_level(None, SIZE).to_str()),
        tokenizer_config={"chat_template": template, "add_bos_token": True, "bos_token": "<|end|>"},
    )
    found, _ = folder.to_gguf()
    assert (found["chat_template"], found["add_bos_token"], found["add_eos_token"]) == (expected, True, False)


def test_folder_without_a_usable_tokenizer_gives_a_file_without_a_vocabulary(folder: Folder):
    found, warnings = folder.to_gguf()
    assert found["model"] == "none"
    assert "tokens" not in found
    assert [w for w in warnings if w.startswith("tokenizer.json: none in") and "convert again" in w]
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0))
    words = Tokenizer(models.BPE({"a": 0}, []))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    for tokenizer, message in (
        (unigram, "its model is of type Unigram"),
        (words, "neither bytes nor pieces"),
    ):
        folder.add(tokenizer=json.loads(tokenizer.to_str()))
        plan = plan_conversion(folder.path, to="gguf")
        assert b"ggml.tokens" not in plan.preamble
        assert [warning for warning in plan.warnings if message in warning]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer": []}, "tokenizer.json: Expected `object`"),
        ({"tokenizer": {"model": {"vocab": {"a": "b"}, "merges": []}}}, r"tokenizer.json: .*vocab"),
        ({"tokenizer": {"model": {"vocab": {}, "merges": [1]}}}, r"tokenizer.json: .*merges"),
        (
            {
                "tokenizer": {
                    "model": {"vocab": {"a": SIZE}, "merges": []},
                    "pre_tokenizer": {"type": "ByteLevel"},
                }
            },
            r"token 'a' has the id 320, but the embedding has 320 rows",
        ),
        (
            {"tokenizer": {"model": {"vocab": {}, "merges": []}}, "tokenizer_config": 3},
            "tokenizer_config.json",
        ),
    ],
)
def test_broken_tokenizer_files_are_named(folder: Folder, files: dict[str, Any], message: str):
    folder.add(**files)
    with pytest.raises(CorruptFileError, match=message) as caught:
        plan_conversion(folder.path, to="gguf")
    assert str(folder.path) in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_tokenizer_is_planned_or_refused(folder: Folder, place: float, byte: int, cut: bool):
    path = folder.path / "tokenizer.json"
    content = SMALL.encode()
    index = int(place * len(content))
    path.write_bytes(content[:index] + bytes([byte]) + (b"" if cut else content[index + 1 :]))
    try:
        plan_conversion(folder.path, to="gguf")
    except CheckpointError as error:
        assert str(folder.path) in str(error)


SMALL = json.dumps(
    {
        "added_tokens": [{"id": 0, "content": "<s>", "special": True}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}]},
        "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<s>",
            "byte_fallback": True,
            "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3},
            "merges": ["a b"],
        },
    }
)


def test_a_tokenizer_that_cannot_be_read_is_a_warning_and_no_vocabulary(
    write_llama: WriteLlama, tmp_path: Path
):
    folder = Folder(write_llama, tmp_path, 400)
    (folder.path / "tokenizer.model").write_bytes(b"no tokenizer")
    plan = plan_conversion(folder.path, to="gguf")
    assert any("none can be made" in warning for warning in plan.warnings)
