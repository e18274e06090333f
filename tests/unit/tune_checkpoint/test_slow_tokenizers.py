"""Models and adapters that bring only the vocabulary of which tokenizer.json is made."""

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm
from tokenizers import Tokenizer

from adapter_files import QUERY, lora, normal, write_adapter
from gguf_samples import fields, read_file
from small_llama import CONFIG, HIDDEN, small_weights, write_folder
from tokenizer_samples import TEXTS, byte_level, write_sentencepiece
from tune_checkpoint import convert

ROWS = 420
SIZE = 400
"""Tokens of the base's vocabulary."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A small model, and a SentencePiece model beside it."""
    weights = small_weights() | {"model.embed_tokens.weight": normal(ROWS, HIDDEN)}
    folder = write_folder(tmp_path / "base", weights, CONFIG | {"vocab_size": ROWS})
    (folder / "tokenizer.json").unlink()
    write_sentencepiece(folder / "tokenizer.model", SIZE)
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """One that brings a vocabulary of its own, of fewer tokens."""
    folder = write_adapter(tmp_path / "adapter", lora(QUERY, outputs=HIDDEN, inputs=HIDDEN))
    write_sentencepiece(folder / "tokenizer.model", SIZE - 10)
    return folder


def vocabulary_of(folder: Path) -> list[str]:
    """Of a GGUF file: its tokens that are not there to fill it up."""
    tokens: list[str] = fields(read_file(folder)).get("tokenizer.ggml.tokens", [])
    return [token for token in tokens if not token.startswith("[PAD")]


@pytest.mark.parametrize(
    "beside",
    [
        {"added_tokens.json": {"<more>": SIZE}},
        {"tokenizer_config.json": {"added_tokens_decoder": {str(SIZE): {"content": "<more>"}}}},
    ],
)
def test_a_gguf_file_gets_no_vocabulary_that_lacks_added_tokens(
    base: Path, tmp_path: Path, beside: dict[str, Any]
):
    for name, value in beside.items():
        (base / name).write_text(json.dumps(value))
    warnings = convert(base, tmp_path / "out", to="gguf").warnings
    assert any("tokens were added to those of tokenizer.model" in warning for warning in warnings)
    assert vocabulary_of(tmp_path / "out") == []


def test_a_gguf_file_gets_the_vocabulary_that_the_adapter_brings(base: Path, adapter: Path, tmp_path: Path):
    convert(base, tmp_path / "plain", to="gguf")
    convert(base, tmp_path / "out", to="gguf", adapter=adapter)
    assert len(vocabulary_of(tmp_path / "plain")) == SIZE
    assert len(vocabulary_of(tmp_path / "out")) == SIZE - 10


def test_metas_format_gets_the_vocabulary_of_the_adapter(base: Path, adapter: Path, tmp_path: Path):
    (base / "original").mkdir()
    (base / "original" / "tokenizer.model").write_text("Meta's")
    for name, options in {"plain": {}, "out": {"adapter": adapter}}.items():
        convert(base, tmp_path / name, to="meta", **options)
    assert (tmp_path / "plain" / "tokenizer.model").read_text() == "Meta's"
    written = (tmp_path / "out" / "tokenizer.model").read_bytes()
    assert written == (adapter / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("place", ["base", "adapter"])
def test_an_added_token_of_an_absurd_id_is_beyond_every_vocabulary(
    base: Path, adapter: Path, tmp_path: Path, place: str
):
    described = {"added_tokens_decoder": {"9" * 5000: {"content": "<more>"}}}
    (tmp_path / place / "tokenizer_config.json").write_text(json.dumps(described))
    result = convert(base, tmp_path / "out", adapter=adapter if place == "adapter" else None)
    told = {"base": "none was made: tokens were added", "adapter": "that of the base was kept"}
    assert any(told[place] in warning for warning in result.warnings)


@pytest.mark.parametrize("has_parts", [False, True])
def test_no_tokenizer_is_made_of_more_tokens_than_the_embedding_has_rows(
    base: Path, tmp_path: Path, has_parts: bool
):
    size: dict[str, Any] = {"vocab_size": SIZE - 1}
    config = {key: value for key, value in CONFIG.items() if key != "vocab_size"}
    (base / "config.json").write_text(json.dumps(config | ({"text_config": size} if has_parts else size)))
    result = convert(base, tmp_path / "out")
    assert "tokenizer.json" not in result.files
    assert any("400 tokens, but the embedding has 399 rows" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("beside", "has_vocabulary"),
    [
        ({"chat_template.jinja": "{{ messages }}"}, False),
        ({"chat_template.jinja": "{{ messages }}"}, True),
        ({"tokenizer_config.json": '{"chat_template": "{{ messages }}"}'}, True),
    ],
)
def test_a_chat_template_that_the_adapter_brings_is_not_missed(
    base: Path, adapter: Path, tmp_path: Path, beside: dict[str, str], has_vocabulary: bool
):
    if not has_vocabulary:
        (adapter / "tokenizer.model").unlink()
    assert any("chat template" in warning for warning in convert(base, tmp_path / "plain").warnings)
    for name, text in beside.items():
        (adapter / name).write_text(text)
    assert convert(base, tmp_path / "out", adapter=adapter).warnings == ()


def test_a_tokenizer_is_made_of_the_vocabulary_that_the_adapter_brings(
    base: Path, adapter: Path, tmp_path: Path
):
    warnings = convert(base, tmp_path / "out", adapter=adapter).warnings
    assert [warning.partition(":")[0] for warning in warnings] == ["chat_template.jinja"]
    reference = spm.SentencePieceProcessor(model_file=str(adapter / "tokenizer.model"))
    ours = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert ours.get_vocab_size() == SIZE - 10
    for text in TEXTS:
        if "<" not in text:
            assert ours.encode(text, add_special_tokens=False).ids == reference.encode(text)


def test_a_vocabulary_of_more_tokens_than_rows_is_left_with_the_adapter(
    base: Path, adapter: Path, tmp_path: Path
):
    write_sentencepiece(adapter / "tokenizer.model", ROWS + 1)
    warnings = convert(base, tmp_path / "out", adapter=adapter).warnings
    assert any("the adapter's has 421 tokens, and the embedding 420 rows" in text for text in warnings)
    written = (tmp_path / "out" / "tokenizer.model").read_bytes()
    assert written == (base / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("damage", [{"tokenizer.model": "what"}, {"added_tokens.json": f'{{"<m>": {SIZE}}}'}])
def test_no_tokenizer_is_made_of_what_the_adapter_brings_in_part(
    base: Path, adapter: Path, tmp_path: Path, damage: dict[str, str]
):
    for name, text in damage.items():
        (adapter / name).write_text(text)
    result = convert(base, tmp_path / "out", adapter=adapter)
    assert "tokenizer.json" not in result.files
    assert any(text.startswith(f"tokenizer.json: none in {adapter}, and none") for text in result.warnings)


def test_metas_format_gets_no_vocabulary_of_the_base_where_the_adapter_brings_a_fast_one(
    base: Path, adapter: Path, tmp_path: Path
):
    (base / "original").mkdir()
    (base / "original" / "tokenizer.model").write_text("Meta's")
    (adapter / "tokenizer.model").unlink()
    byte_level(None, SIZE - 10).save(str(adapter / "tokenizer.json"))
    result = convert(base, tmp_path / "out", to="meta", adapter=adapter)
    assert not (tmp_path / "out" / "tokenizer.model").exists()
    assert any(warning.startswith("tokenizer.model: ") for warning in result.warnings)
