"""`inspect`, `verify` and `diff` on what transformers writes, and on files larger than memory need be."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tune_checkpoint import convert
from tune_checkpoint._diff import diff
from tune_checkpoint._inspect import inspect
from tune_checkpoint._verify import verify
from tune_checkpoint.checks.shapes import FAMILIES

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
OPTIONS = [{}, {"attention_bias": True, "mlp_bias": True}, {"head_dim": 32}]


def random_model(family: str, **options: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(family, **SIZES, **options)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "biases", "head_dim"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_is_found_sound_and_counted(
    family: str, options: dict[str, Any], tmp_path: Path
):
    if family in ("qwen2", "phi3") and "head_dim" in options:
        pytest.skip("has no head_dim of its own")
    model = random_model(family, **options)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    for folder in (tmp_path / "whole", tmp_path / "shards"):
        found = verify(folder)
        assert found.ok, found.problems
        assert f"shapes ({family})" in found.checked
        assert inspect(folder).num_parameters == model.num_parameters()
    assert "index" in verify(tmp_path / "shards").checked
    assert diff(tmp_path / "whole", tmp_path / "shards").identical


@pytest.mark.parametrize("family", FAMILIES)
def test_any_tensor_of_another_shape_is_found(family: str, tmp_path: Path):
    from safetensors.numpy import load_file, save_file

    random_model(family).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in [name for name in weights if ".layers." not in name or ".layers.1." in name]:
        other = {**weights, name: np.zeros((3, *weights[name].shape[1:]), np.float32)}
        save_file(other, tmp_path / "model.safetensors")
        (problem,) = verify(tmp_path).problems
        assert (problem.check, problem.tensor) == ("shapes", name)


def test_smollm2_is_counted_as_transformers_counts_it(smollm2_gguf: Path, tmp_path: Path):
    convert(smollm2_gguf, tmp_path / "hf", dtype="bf16")
    found = inspect(tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert found.num_parameters == model.num_parameters() == inspect(smollm2_gguf).num_parameters
    assert verify(tmp_path / "hf").ok
    assert verify(smollm2_gguf).ok
    model.save_pretrained(tmp_path / "again", max_shard_size="60MB")
    assert diff(tmp_path / "hf", tmp_path / "again").identical
    rounded = diff(tmp_path / "hf", smollm2_gguf)
    assert {(t.dtype_a, t.dtype_b) for t in rounded.tensors} == {("BF16", "F32")}
    assert max(t.max_rel or 0 for t in rounded.tensors) <= 2**-8


def sparse(path: Path, shapes: dict[str, list[int]], dtype: str, item: int) -> Path:
    """A file of safetensors whose zeros take no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = item * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


PEAK = """
import sys
from pathlib import Path
{code}
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def peak_mb(code: str, *arguments: Path) -> float:
    """Peak memory of a process that runs `code`."""
    command = [sys.executable, "-c", PEAK.format(code=code), *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def test_memory_does_not_grow_with_the_tensors(tmp_path: Path):
    shapes = {"a.weight": [125_000, 2000], "b.weight": [125_000, 2000]}
    half = sparse(tmp_path / "half.safetensors", shapes, "BF16", 2)
    full = sparse(tmp_path / "full.safetensors", shapes, "F32", 4)  # 2 GB
    verifying = "from tune_checkpoint._verify import verify; assert verify(sys.argv[1], jobs=4).ok"
    assert peak_mb(verifying, full) < 100
    comparing = "from tune_checkpoint._diff import diff; diff(sys.argv[1], sys.argv[2], jobs=4)"
    assert peak_mb(comparing, half, full) < 250
