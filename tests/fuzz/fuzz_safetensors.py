"""Fuzzes the readers of safetensors: the header of a file, and the index of a folder."""

import json
from pathlib import Path

from fuzz.fuzzing import Target, fuzz_target

from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.safetensors_reader import read_index, read_safetensors_header

_TOKENS = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b'"',
        b"-1",
        b"1e9",
        b"0",
        b"18446744073709551616",
        b"null",
        b"true",
    ),
    *(
        b'"dtype"',
        b'"shape"',
        b'"data_offsets"',
        b'"__metadata__"',
        b'"F32"',
        b'"BF16"',
        b"\\u0000",
        b"\\ud800",
    ),
    *(b'"weight_map"', b"..", b"/", b"model.safetensors"),
)


def _read_header(path: Path) -> None:
    file = MappedFile(path)
    for tensor in read_safetensors_header(file):
        assert 0 <= tensor.offset <= tensor.offset + tensor.nbytes <= file.size, tensor


def _headers() -> list[bytes]:
    entries: dict[str, object] = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
        "c": {"dtype": "U8", "shape": [0, 4], "data_offsets": [26, 26]},
    }
    texts = [json.dumps(entries | extra).encode() for extra in ({}, {"__metadata__": {"format": "pt"}})]
    return [len(text).to_bytes(8, "little") + text + bytes(26) for text in texts]


def _with_length(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text + bytes(26)


def _read_index(path: Path) -> None:
    for file_name in read_index(path).values():
        assert not {"/", "\\", "\0"} & {*file_name}, file_name
        assert file_name not in ("", ".", ".."), file_name


def _indices() -> list[bytes]:
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    return [json.dumps({"metadata": {"total_size": 50}, "weight_map": weight_map}).encode()]


TARGETS = (
    Target("safetensors files", _read_header, _headers, _TOKENS),
    Target(
        "safetensors headers",
        _read_header,
        lambda: [text[8:-26] for text in _headers()],
        _TOKENS,
        _with_length,
    ),
    Target("safetensors indices", _read_index, _indices, _TOKENS),
)


def run(seconds: float, seed: int | None = None) -> int:
    """Fuzz each for its share of the time; returns how many inputs were tried."""
    return sum(fuzz_target(target, seconds / len(TARGETS), seed=seed) for target in TARGETS)
