"""Fuzzes the reader of GGUF headers."""

import struct
from pathlib import Path

from fuzz.fuzzing import Target, fuzz_target

from tune_checkpoint.gguf.reader import read_gguf_header
from tune_checkpoint.mapped import MappedFile

_TOKENS = (
    *(b"GGUF", b"general.alignment", b"llama", b"tokenizer.ggml.tokens"),
    *(number.to_bytes(4, "little") for number in (*range(13), 32)),
    *(number.to_bytes(8, "little") for number in (1, 2, 32, 1 << 32, 1 << 63)),
)


def _read(path: Path) -> None:
    file = MappedFile(path)
    for tensor in read_gguf_header(file).tensors:
        assert 0 <= tensor.offset <= tensor.offset + tensor.nbytes <= file.size, tensor


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _seeds() -> list[bytes]:
    pairs = (
        _text("general.architecture") + struct.pack("<I", 8) + _text("llama"),
        _text("general.alignment") + struct.pack("<II", 4, 64),
        _text("a.float") + struct.pack("<If", 6, 0.5),
        _text("a.flag") + struct.pack("<IB", 7, 1),
        _text("a.long") + struct.pack("<Iq", 11, -1),
        _text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + _text("<s>") + _text("a"),
        _text("tokenizer.ggml.scores") + struct.pack("<IIQff", 9, 6, 2, 0.0, -1.0),
        _text("nested") + struct.pack("<IIQIQBB", 9, 9, 1, 0, 2, 1, 2),
    )
    tensors = (
        _text("token_embd.weight") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0),
        _text("blk.0.attn_q.weight") + struct.pack("<IQQIQ", 2, 32, 1, 2, 64),
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join((*pairs, *tensors))
    return [head + bytes(-len(head) % 64) + bytes(64 + 18), b"GGUF" + struct.pack("<IQQ", 2, 0, 0)]


TARGETS = (Target("GGUF files", _read, _seeds, _TOKENS),)


def run(seconds: float, seed: int | None = None) -> int:
    """Fuzz it; returns how many inputs were tried."""
    return sum(fuzz_target(target, seconds, seed=seed) for target in TARGETS)
