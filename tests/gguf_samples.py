"""Hugging Face folders to make GGUF files of, and those as the gguf package reads them."""

import json
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50000,
    "tie_word_embeddings": True,
}
"""Of the model that the fixture `write_llama` writes."""
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def write_hf(folder: Path, tensors: dict[str, np.ndarray], dtype: str = "F32", **config: Any) -> Path:
    """A Hugging Face folder with these weights, written by the safetensors package."""
    folder.mkdir()
    cast = {name: weights.astype(NUMPY[dtype]) for name, weights in tensors.items()}
    save_file(cast, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder


def read_file(path: Path) -> gguf.GGUFReader:
    """A GGUF file, or the one in a folder."""
    return gguf.GGUFReader(next(path.glob("*.gguf")) if path.is_dir() else path)


def contents(reader: gguf.GGUFReader) -> dict[str, tuple[str, list[int], bytes]]:
    """Name -> type, dimensions in the order of the file, and bytes of each tensor."""
    return {t.name: (t.tensor_type.name, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}


def fields(reader: gguf.GGUFReader) -> dict[str, Any]:
    """The metadata."""
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
