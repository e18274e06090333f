"""A conversion takes no more memory than a few blocks, whatever the size of the model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune_checkpoint.dtypes import num_bytes
from tune_checkpoint.safetensors_writer import safetensors_header
from tune_checkpoint.torch_file.layout import torch_layout

HIDDEN, FEED_FORWARD, HEADS, VOCAB, LAYERS = 2048, 5632, 16, 8000, 12
"""1.3 GB in bf16, of tensors of at most 33 MB."""
ALLOWED = 300_000_000

Specs = list[tuple[str, str, tuple[int, ...]]]

MEASURED = """
import re, sys
from pathlib import Path
from tune_checkpoint import convert
result = convert(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak[1]) * 1024, result.nbytes)
"""


def layer_shapes() -> dict[str, tuple[int, int]]:
    """Name in Hugging Face's layers -> shape."""
    square, up, down = (HIDDEN, HIDDEN), (FEED_FORWARD, HIDDEN), (HIDDEN, FEED_FORWARD)
    attention = dict.fromkeys((f"self_attn.{key}_proj.weight" for key in "qkvo"), square)
    return attention | {"mlp.gate_proj.weight": up, "mlp.up_proj.weight": up, "mlp.down_proj.weight": down}


def huggingface_specs() -> Specs:
    """The tensors of a Llama model."""
    specs: Specs = [("model.embed_tokens.weight", "BF16", (VOCAB, HIDDEN))]
    for layer in range(LAYERS):
        place = f"model.layers.{layer}."
        specs += [(place + name, "BF16", shape) for name, shape in layer_shapes().items()]
        specs += [
            (f"{place}{norm}_layernorm.weight", "BF16", (HIDDEN,)) for norm in ("input", "post_attention")
        ]
    return [*specs, ("model.norm.weight", "BF16", (HIDDEN,)), ("lm_head.weight", "BF16", (VOCAB, HIDDEN))]


def meta_specs(shards: int) -> Specs:
    """The tensors of one of Meta's model-parallel shards of the same model."""
    rows, columns = (HIDDEN // shards, HIDDEN), (HIDDEN, HIDDEN // shards)
    up, down = (FEED_FORWARD // shards, HIDDEN), (HIDDEN, FEED_FORWARD // shards)
    specs: Specs = [("tok_embeddings.weight", "BF16", (VOCAB // shards, HIDDEN))]
    for layer in range(LAYERS):
        shapes = {"attention.wq": rows, "attention.wk": rows, "attention.wv": rows, "attention.wo": columns}
        shapes |= {"feed_forward.w1": up, "feed_forward.w2": down, "feed_forward.w3": up}
        specs += [(f"layers.{layer}.{name}.weight", "BF16", shape) for name, shape in shapes.items()]
        specs += [(f"layers.{layer}.{norm}_norm.weight", "BF16", (HIDDEN,)) for norm in ("attention", "ffn")]
    return [*specs, ("norm.weight", "BF16", (HIDDEN,)), ("output.weight", "BF16", (VOCAB // shards, HIDDEN))]


def write_sparse(path: Path, pieces: tuple[tuple[int, bytes], ...], size: int) -> None:
    """Write a file whose weights are zeros that take no room on the disk."""
    with path.open("wb") as file:
        for offset, content in pieces:
            file.seek(offset)
            file.write(content)
    os.truncate(path, size)


def write_torch(path: Path, specs: Specs) -> None:
    layout = torch_layout(specs)
    write_sparse(path, layout.pieces(), layout.size)


def write_source(kind: str, folder: Path) -> None:
    """Make the model in one of the formats."""
    folder.mkdir()
    if kind == "meta":
        for shard in range(2):
            write_torch(folder / f"consolidated.{shard:02d}.pth", meta_specs(2))
        params = {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "vocab_size": VOCAB, "norm_eps": 1e-5}
        (folder / "params.json").write_text(json.dumps(params | {"multiple_of": 256}))
        return
    specs = huggingface_specs()
    if kind == "bin":
        write_torch(folder / "pytorch_model.bin", specs)
    else:
        size = sum(num_bytes(dtype, shape) for _, dtype, shape in specs)
        header = safetensors_header(specs)
        write_sparse(folder / "model.safetensors", ((0, header),), len(header) + size)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "vocab_size": VOCAB, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
        "max_position_embeddings": 2048, "rope_theta": 10000.0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("safetensors", {"max_shard_size": 500_000_000, "jobs": 4}),
        ("safetensors", {"dtype": "fp32", "verify": False, "jobs": 32}),
        ("bin", {"jobs": 8}),
        ("meta", {"jobs": 4}),
        ("safetensors", {"to": "meta", "verify": False, "jobs": 4}),
        ("safetensors", {"to": "gguf", "quant": "q8_0", "verify": False, "jobs": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items()),
)
def test_memory_is_bounded(kind: str, options: dict[str, object], tmp_path: Path):
    write_source(kind, tmp_path / "source")
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "source"), str(tmp_path / "out"), repr(options)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, nbytes = map(int, done.stdout.split())
    assert nbytes > 600_000_000
    largest = 2 * FEED_FORWARD * HIDDEN * (2 if options.get("dtype") == "fp32" else 1)
    assert peak <= ALLOWED + 2 * largest
