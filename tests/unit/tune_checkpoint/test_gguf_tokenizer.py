"""Tokenizers made from GGUF metadata, held against the tokenizers library and transformers' reading."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tune_checkpoint import CorruptFileError, UnsupportedCheckpointError, convert, plan_conversion
from tune_checkpoint.gguf.bpe import byte_alphabet
from tune_checkpoint.gguf.pretokenizers import LLAMA3, PRE_TOKENIZERS, TEKKEN
from tune_checkpoint.tokenizers.bpe import merges_from_scores

WriteLlama = Callable[..., Any]

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "don't say it's 12345 or 12",
    "Grüße aus 東京",
    "a  b\n\n c    7",
] * 9
TEXTS = [
    "the quick brown fox", " the  quick\n\nfox ", "don't 12345 6", "DON'T", "Grüße, 世界 🎉", "\tx = 42;\r\n",
    "    5", "a   12 b", "<|user|>hi<|end|>", "a<tool>b", "naïve café\u0301", "x" * 40, "",
]  # fmt: skip
SPECIALS = ["<|end|>", "<|user|>"]
SIZE = 300


def byte_level(pre: str | None, split: str | None) -> tuple[Tokenizer, dict[str, Any]]:
    """A trained byte-level tokenizer and the metadata that llama.cpp's converter would write for it."""
    tokenizer = Tokenizer(models.BPE())
    steps: list[Any] = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    if pre == "smollm":
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - 1, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS) - 1) + [4],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.eos_token_id": 0,
    }
    return tokenizer, metadata | ({"tokenizer.ggml.pre": pre} if pre else {})


def sentencepiece() -> dict[str, Any]:
    """The metadata of a SentencePiece vocabulary: pieces with scores, and a token for each byte."""
    letters = "_ t h e q u i c k b r o w n f x d g a s y ' 1 2 3 4 5 . é"
    joined = (
        "_t _th _the th he in er _q qu ick _quick ic ck ow own _b br _br _brown row ox _f _fox __ ____ 12 123"
    )
    pieces = f"{letters} {joined}".replace("_", "\u2581").split(" ")
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank // 2) for rank in range(len(pieces))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
    }


def converted(
    write_llama: WriteLlama, tmp_path: Path, metadata: dict[str, Any]
) -> tuple[Tokenizer, Path, Any]:
    file = write_llama(metadata=metadata, vocab=len(metadata["tokenizer.ggml.tokens"]))
    result = convert(file.path, tmp_path / "out")
    return Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")), file.path, result


@pytest.mark.parametrize(
    ("pre", "split"), [(None, None), ("smollm", None), ("llama-bpe", LLAMA3.split), ("tekken", TEKKEN.split)]
)
def test_byte_level_ids_and_text_are_those_of_the_tokenizer_it_was_made_from(
    write_llama: WriteLlama, tmp_path: Path, pre: str | None, split: str | None
):
    original, metadata = byte_level(pre, split)
    made, _, _ = converted(write_llama, tmp_path, metadata)
    for text in TEXTS:
        ids = original.encode(text).ids
        assert made.encode(text).ids == ids, text
        assert made.decode(ids, skip_special_tokens=False) == original.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("kind", ["llama-bpe", "sentencepiece"])
def test_ids_are_those_of_transformers_reading_of_the_file(
    write_llama: WriteLlama, tmp_path: Path, kind: str
):
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        convert_gguf_tokenizer,
        get_gguf_tokenizer,
    )

    metadata = sentencepiece() if kind == "sentencepiece" else byte_level(kind, LLAMA3.split)[1]
    made, path, _ = converted(write_llama, tmp_path, metadata)
    architecture, parts, _ = get_gguf_tokenizer(str(path))
    reference, _ = convert_gguf_tokenizer(architecture, parts)
    for text in [*TEXTS, "the quick  brown fox", "    123", " é", "qu\u2581ick", "<s>the</s> quick"]:
        expected = reference.encode(text, add_special_tokens=False)
        assert made.encode(text, add_special_tokens=False).ids == expected.ids, text
        assert made.decode(expected.ids) == reference.decode(expected.ids)


@given(text=st.text(max_size=40))
def test_any_text_survives_sentencepiece(spm_tokenizer: Tokenizer, text: str):
    # A leading space is taken for the prefix; transformers reads the file in the same way.
    text = text.lstrip(" \u2581")
    ids = spm_tokenizer.encode(text, add_special_tokens=False).ids
    assert spm_tokenizer.decode(ids, skip_special_tokens=False) == text.replace("\u2581", " ")


@pytest.fixture(scope="module")
def spm_tokenizer(write_llama_once: WriteLlama, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    metadata = sentencepiece()
    file = write_llama_once(metadata=metadata, vocab=len(metadata["tokenizer.ggml.tokens"]))
    convert(file.path, file.path.with_name("out"))
    return Tokenizer.from_file(str(file.path.with_name("out") / "tokenizer.json"))


def test_bos_and_eos_are_added_as_the_file_says(write_llama: WriteLlama, tmp_path: Path):
    made, _, _ = converted(write_llama, tmp_path, sentencepiece() | {"tokenizer.ggml.add_eos_token": True})
    assert made.encode("the").tokens == ["<s>", "\u2581the", "</s>"]
    assert made.encode("the", "fox").type_ids == [0, 0, 0, 1, 1, 1]
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (config["add_bos_token"], config["add_eos_token"], config["bos_token"]) == (True, True, "<s>")


def test_space_is_prefixed_unless_the_file_says_not(write_llama: WriteLlama, tmp_path: Path):
    made, _, _ = converted(
        write_llama, tmp_path, sentencepiece() | {"tokenizer.ggml.add_space_prefix": False}
    )
    assert made.encode("the", add_special_tokens=False).tokens == ["th", "e"]


def test_special_tokens_outside_the_byte_alphabet_stay_whole(write_llama: WriteLlama, tmp_path: Path):
    _, metadata = byte_level(None, None)
    metadata["tokenizer.ggml.tokens"][0] = "<\uff5cend\u2581of\u2581text\uff5c>"
    made, _, _ = converted(write_llama, tmp_path, metadata)
    assert made.encode("the<\uff5cend\u2581of\u2581text\uff5c>").ids[-1] == 0


def test_chat_template_and_ids_go_where_transformers_looks(write_llama: WriteLlama, tmp_path: Path):
    metadata = sentencepiece() | {
        "tokenizer.chat_template": "{{ messages }}é",
        "tokenizer.ggml.eot_token_id": 5,
    }
    _, _, result = converted(write_llama, tmp_path, metadata)
    out = tmp_path / "out"
    assert result.warnings == ()
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}é"
    assert json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == "{{ messages }}é"
    assert json.loads((out / "generation_config.json").read_text()) == {
        "bos_token_id": 1,
        "eos_token_id": [2, 5],
    }
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == 2


def test_unknown_split_and_missing_template_are_warned_of(write_llama: WriteLlama, tmp_path: Path):
    _, metadata = byte_level("fancy", None)
    _, _, result = converted(write_llama, tmp_path, metadata)
    assert [warning.split(":")[0] for warning in result.warnings] == ["tokenizer.json", "chat_template.jinja"]
    assert "'fancy' (tokenizer.ggml.pre)" in result.warnings[0]
    again = plan_conversion(tmp_path / "model.gguf", to="gguf")
    assert "'fancy' (tokenizer.ggml.pre)" in again.warnings[0]


def test_other_tokenizers_and_broken_merges_are_refused(write_llama: WriteLlama, tmp_path: Path):
    _, metadata = byte_level(None, None)
    with pytest.raises(UnsupportedCheckpointError, match=r"kind 't5'.*gpt2 .*and llama"):
        converted(write_llama, tmp_path, metadata | {"tokenizer.ggml.model": "t5"})
    with pytest.raises(CorruptFileError, match=r"merge 0 of .*'a nonsense', does not join two tokens"):
        converted(write_llama, tmp_path, metadata | {"tokenizer.ggml.merges": ["a nonsense"]})
    del metadata["tokenizer.ggml.merges"]
    with pytest.raises(CorruptFileError, match="merges is missing"):
        converted(write_llama, tmp_path, metadata)


def test_byte_alphabet_is_the_tokenizers_librarys():
    assert byte_alphabet() == set(pre_tokenizers.ByteLevel.alphabet())


def test_splits_are_those_of_transformers():
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    for name, pre_tokenizer in PRE_TOKENIZERS.items():
        assert GGUF_PRE_TOKENIZER_SPLITS.get(name) == pre_tokenizer.split, name


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=4), st.sampled_from([-1.0, -2.0, -3.0]), max_size=20)
)
def test_merges_from_scores_are_those_of_transformers(scores: dict[str, float]):
    from transformers.tokenization_utils_base import generate_merges

    vocab = {token: index for index, token in enumerate(scores)}
    assert merges_from_scores(vocab, scores) == generate_merges(vocab, scores)
