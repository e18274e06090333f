"""Whatever is damaged, `verify` reports it, and `inspect` and `diff` refuse it in words."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from meta_checkpoints import MetaModel, random_weights, write_meta
from small_llama import CONFIG, small_weights, write_folder
from tune_checkpoint import CheckpointError, diff, inspect, verify
from tune_checkpoint.text import difference_lines, inspection_lines, verification_lines


def make(folder: Path, kind: str) -> None:
    if kind == "meta":
        write_meta(folder, MetaModel(dim=16, n_layers=1, n_heads=2, hidden_dim=256, vocab_size=8), tiny(), 1)
    elif kind == "adapter":
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        pair = {
            "m.lora_A.weight": np.ones((2, 8), np.float32),
            "m.lora_B.weight": np.ones((8, 2), np.float32),
        }
        save_file(pair, folder / "adapter_model.safetensors")
    elif kind == "torch":
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG))
        weights = {name: torch.from_numpy(array) for name, array in small_weights().items()}
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        write_folder(folder, small_weights(np.float16), num_shards=1 if kind == "whole" else 2)
        (folder / "SHA256SUMS").write_text(f"{'0' * 64}  config.json\n{'1' * 64} *tokenizer.json\n")


def tiny() -> dict[str, torch.Tensor]:
    return random_weights(MetaModel(dim=16, n_layers=1, n_heads=2, hidden_dim=256, vocab_size=8))


def everything(path: Path) -> None:
    """Look at a checkpoint in every way."""
    with suppress(CheckpointError):
        inspection_lines(inspect(path))
    with suppress(CheckpointError):
        verification_lines(verify(path, jobs=1))
    with suppress(CheckpointError):
        difference_lines(diff(path, path, jobs=1))


@pytest.fixture(scope="module", params=["whole", "shards", "torch", "meta", "adapter"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint, which the tests damage and put back."""
    folder = tmp_path_factory.mktemp("sound") / "model"
    make(folder, request.param)
    yield folder


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=25)
@given(data=st.data())
def test_damaged_bytes_are_told_in_words(sound: Path, data: st.DataObject):
    path = data.draw(st.sampled_from(sorted(sound.iterdir())), "file")
    content = path.read_bytes()
    # The places that matter are the header at the beginning and the zip's directory at the end.
    edge = st.integers(0, min(len(content), 4000) - 1)
    place = edge | edge.map(lambda at: len(content) - 1 - at)
    damaged = bytearray(content)
    for position in data.draw(st.lists(place, min_size=1, max_size=3)):
        damaged[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | edge)
    try:
        path.write_bytes(damaged[:cut])
        everything(sound)
        everything(path)
    finally:
        path.write_bytes(content)


@settings(max_examples=25)
@given(data=st.data())
def test_any_json_in_any_place_is_told_in_words(sound: Path, data: st.DataObject):
    path = data.draw(st.sampled_from(sorted(sound.glob("*.json"))), "file")
    content = path.read_bytes()
    value = json.loads(content)
    keys = data.draw(st.lists(st.sampled_from(sorted(value)), min_size=1, max_size=2))
    changed = value | {key: data.draw(JSON) for key in keys} if data.draw(st.booleans()) else data.draw(JSON)
    try:
        path.write_text(json.dumps(changed))
        everything(sound)
    finally:
        path.write_bytes(content)
