"""The tokenizer of a Meta checkpoint, and the ids that it gives."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from meta_checkpoints import LLAMA3, SCALED, MetaModel, config_of, write_random
from tune_checkpoint import CorruptFileError, convert, plan_conversion


@pytest.fixture(scope="module")
def tokenizer_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    sentencepiece.SentencePieceTrainer.Train(
        input=str(folder / "text"),
        model_prefix=str(folder / "m"),
        vocab_size=40,
        model_type="bpe",
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return (folder / "m.model").read_bytes()


@pytest.mark.parametrize("place", ["src/tokenizer.model", "tokenizer.model"])
def test_tokenizer_comes_along_also_from_the_folder_above(tmp_path: Path, tokenizer_model: bytes, place: str):
    write_random(tmp_path / "src", MetaModel(vocab_size=40))
    (tmp_path / place).write_bytes(tokenizer_model)
    (tmp_path / "src" / "USE_POLICY.md").write_text("Be kind.")
    result = convert(tmp_path / "src", tmp_path / "out")
    assert result.files[-4:] == (
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "USE_POLICY.md",
    )
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == tokenizer_model
    assert config_of(tmp_path / "out")["bos_token_id"] == 1
    assert not any(warning.startswith("tokenizer.json: no") for warning in result.warnings)


def test_tokenizer_of_another_model_in_the_folder_above_is_left_there(tmp_path: Path, tokenizer_model: bytes):
    write_random(tmp_path / "src", MetaModel(vocab_size=48))
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model)
    assert any("no tokenizer.model beside" in text for text in plan_conversion(tmp_path / "src").warnings)


def test_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(
    tmp_path: Path, tokenizer_model: bytes
):
    write_random(tmp_path, MetaModel(vocab_size=32))
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model)
    with pytest.raises(CorruptFileError, match=r"tokenizer.model: 40 tokens, but the embedding has 32 rows"):
        plan_conversion(tmp_path)


@pytest.mark.parametrize(
    ("params", "ends", "pad"),
    [(LLAMA3, [257, 265], None), (SCALED, [257, 264, 265], "<|finetune_right_pad_id|>")],
)
def test_tokenizer_of_llama3_gives_the_ids_of_its_generation(
    tmp_path: Path, params: dict[str, Any], ends: list[int], pad: str | None
):
    write_random(tmp_path / "src", MetaModel(vocab_size=512, params=params))
    ranks = "".join(f"{b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256))
    (tmp_path / "src" / "tokenizer.model").write_text(ranks)
    convert(tmp_path / "src", tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (256, 257, None)
    assert config_of(tmp_path / "out", "generation_config.json")["eos_token_id"] == ends
    assert config_of(tmp_path / "out", "tokenizer_config.json").get("pad_token") == pad


def test_tokenizer_of_another_kind_is_named_in_a_warning(tmp_path: Path):
    write_random(tmp_path)
    (tmp_path / "tokenizer.model").write_text("not a tokenizer at all")
    assert any(warning.startswith("tokenizer.json: ") for warning in plan_conversion(tmp_path).warnings)


def test_missing_tokenizer_is_named_in_a_warning(tmp_path: Path):
    write_random(tmp_path)
    assert any("no tokenizer.model beside the weights" in text for text in plan_conversion(tmp_path).warnings)
