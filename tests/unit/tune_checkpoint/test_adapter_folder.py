"""What stands beside the weights of a merged model, and which weights there are where the head is tied."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_files import (
    EMBEDDING,
    HEAD,
    HIDDEN,
    QUERY,
    VOCAB,
    WEIGHTS,
    Arrays,
    embedding_lora,
    lora,
    normal,
    write_adapter,
    write_base,
)
from tune_checkpoint import CorruptFileError, plan_conversion
from tune_checkpoint.peft.merge import merge_adapter

TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}},
    "added_tokens": [{"id": 2, "content": "<s>"}],
}


@pytest.fixture
def weights() -> Arrays:
    return {name: normal(*shape) for name, shape in WEIGHTS.items()}


@pytest.fixture
def merge(tmp_path: Path, weights: Arrays) -> Callable[..., tuple[Arrays, dict[str, Any], tuple[str, ...]]]:
    """A function that merges into a base, and gives weights, config and warnings."""

    def merged(tensors: Arrays, *, without: str = "", files: dict[str, str] | None = None, **config: Any):
        kept = {name: array for name, array in weights.items() if name != without}
        base = write_base(tmp_path / "base", kept, **config)
        adapter = write_adapter(tmp_path / "adapter", tensors)
        for name, text in (files or {}).items():
            (adapter / name).write_text(text)
        result = merge_adapter(base, adapter, tmp_path / "out", force=True)
        out = tmp_path / "out"
        written = load_file(out / "model.safetensors")
        return written, json.loads((out / "config.json").read_text()), result.warnings

    return merged


TIED: dict[str, Any] = {"without": f"{HEAD}.weight", "tie_word_embeddings": True}


@pytest.mark.parametrize(
    "config", [TIED, {"without": f"{HEAD}.weight"}, TIED | {"text_config": {"tie_word_embeddings": True}}]
)
def test_tied_head_stays_as_it_was_where_the_embedding_alone_is_trained(
    weights: Arrays, merge: Callable[..., Any], config: dict[str, Any]
):
    tensors = embedding_lora(EMBEDDING)
    a, b = tensors.values()
    old = weights[f"{EMBEDDING}.weight"]
    written, says, _ = merge(tensors, **config)
    np.testing.assert_allclose(written[f"{EMBEDDING}.weight"], old + 1.5 * (b @ a).T, atol=1e-5)
    assert (written[f"{HEAD}.weight"] == old).all()
    assert says["tie_word_embeddings"] is False
    assert says.get("text_config", {}).get("tie_word_embeddings", False) is False


def test_tied_embedding_stays_as_it_was_where_the_head_alone_is_trained(
    weights: Arrays, merge: Callable[..., Any]
):
    old = weights[f"{EMBEDDING}.weight"]
    trained = normal(VOCAB, HIDDEN)
    for tensors in (lora(HEAD, outputs=VOCAB), lora(QUERY) | {f"{HEAD}.weight": trained}):
        written, says, _ = merge(tensors, **TIED)
        assert (written[f"{EMBEDDING}.weight"] == old).all()
        assert (written[f"{HEAD}.weight"] != old).any()
        assert says["tie_word_embeddings"] is False


def test_head_and_embedding_that_were_trained_as_one_stay_tied(merge: Callable[..., Any]):
    one = embedding_lora(EMBEDDING)
    a, b = one.values()
    both = one | {f"{HEAD}.lora_A.weight": b.T.copy(), f"{HEAD}.lora_B.weight": a.T.copy()}
    whole = dict.fromkeys((f"{EMBEDDING}.weight", f"{HEAD}.weight"), normal(VOCAB, HIDDEN))
    for tensors in (both, lora(QUERY) | whole):
        written, says, _ = merge(tensors, **TIED)
        assert f"{HEAD}.weight" not in written
        assert says["tie_word_embeddings"] is True


def test_tied_head_follows_a_larger_embedding(merge: Callable[..., Any]):
    kept = normal(VOCAB + 3, HIDDEN)
    tensors = lora(QUERY) | {f"{EMBEDDING}.base_layer.weight": kept, f"{HEAD}.base_layer.weight": kept}
    written, says, _ = merge(tensors, **TIED)
    assert (written[f"{EMBEDDING}.weight"] == kept).all()
    assert f"{HEAD}.weight" not in written
    assert (says["vocab_size"], says["tie_word_embeddings"]) == (VOCAB + 3, True)


def test_vocabulary_grows_with_embedding_and_head(merge: Callable[..., Any]):
    rows = {f"{EMBEDDING}.weight": normal(VOCAB + 2, HIDDEN), f"{HEAD}.weight": normal(VOCAB + 2, HIDDEN)}
    written, says, _ = merge(lora(QUERY) | rows)
    assert all((written[name] == array).all() for name, array in rows.items())
    assert says["vocab_size"] == VOCAB + 2


def test_config_is_the_bases_byte_for_byte(tmp_path: Path, merge: Callable[..., Any]):
    merge(lora(QUERY), torch_dtype="float32", odd=[1, 2])
    base, out = ((tmp_path / name / "config.json").read_bytes() for name in ("base", "out"))
    assert base == out


def test_tokenizer_of_the_adapter_takes_the_place_of_the_bases(tmp_path: Path, merge: Callable[..., Any]):
    (tmp_path / "base").mkdir()
    for name in ("special_tokens_map.json", "tekken.json", "generation_config.json"):
        (tmp_path / "base" / name).write_text("{}")
    files = {
        "sentencepiece.bpe.model": "pieces",
        "tokenizer.json": json.dumps(TOKENIZER),
        "tokenizer_config.json": '{"eos_token": "<s>"}',
        "chat_template.jinja": "{{ messages }}",
        "README.md": "of the adapter",
    }
    _, _, warnings = merge(lora(QUERY), files=files)
    written = {path.name: path.read_text() for path in (tmp_path / "out").glob("[!m]*")}
    assert {name: written.get(name) for name in files} == files | {"README.md": None}
    assert not {"special_tokens_map.json", "tekken.json"} & written.keys()  # the other tokenizer's
    assert "generation_config.json" in written
    assert warnings == ()


def test_tokenizer_of_the_adapter_makes_up_for_one_that_lacks(tmp_path: Path, weights: Arrays):
    base = write_base(tmp_path / "base", weights)
    (base / "tokenizer.json").unlink()
    adapter = write_adapter(tmp_path / "adapter", lora(QUERY))
    assert "no tokenizer" in plan_conversion(base, adapter=adapter).warnings[0]
    (adapter / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    assert plan_conversion(base, adapter=adapter).warnings == ()


def test_chat_template_alone_is_taken_too(tmp_path: Path, merge: Callable[..., Any]):
    merge(lora(QUERY), files={"chat_template.jinja": "{{ messages }}", "tokenizer_config.json": "{}"})
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "out" / "tokenizer_config.json").exists()


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": json.dumps(TOKENIZER | {"added_tokens": [{"id": VOCAB, "content": "<s>"}]})},
        {"tokenizer.json": json.dumps({"model": {"vocab": [["x", 0.0]] * (VOCAB + 1)}})},
        {"tokenizer.model": "", "added_tokens.json": json.dumps({"<s>": VOCAB})},
        {"vocab.json": json.dumps({"a": VOCAB})},
        {
            "tokenizer.json": json.dumps(TOKENIZER),
            "tokenizer_config.json": json.dumps({"added_tokens_decoder": {str(VOCAB): {"content": "<s>"}}}),
        },
    ],
)
def test_tokenizer_with_more_tokens_than_rows_is_left(
    tmp_path: Path, merge: Callable[..., Any], files: dict[str, str]
):
    _, _, warnings = merge(lora(QUERY), files=files)
    assert warnings == (
        f"tokenizer.json: the adapter's has {VOCAB + 1} tokens, and the embedding {VOCAB} rows; "
        "that of the base was kept",
    )
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"


def test_damaged_tokenizer_is_named(merge: Callable[..., Any]):
    with pytest.raises(CorruptFileError, match=r"adapter/tokenizer.json: not valid JSON"):
        merge(lora(QUERY), files={"tokenizer.json": "{"})
    for odd in ('{"model": 3}', "[]", '{"model": {"vocab": {"a": "b"}}, "added_tokens": {}}'):
        merge(lora(QUERY), files={"tokenizer.json": odd})
