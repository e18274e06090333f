"""The GGUF header reader, held against the gguf package, and against damage."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tune_checkpoint import (
    CheckpointError,
    CorruptFileError,
    UnsupportedCheckpointError,
    open_checkpoint,
    plan_conversion,
)
from tune_checkpoint.gguf.reader import MAX_ITEMS, GgufHeader, read_gguf_header
from tune_checkpoint.mapped import MappedFile

WriteLlama = Callable[..., Any]

TOKENS = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "\u2581ab"]
VOCABULARY = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -4.0, -5.0, -6.0, -1.0, -2.0],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1],
    "tokenizer.ggml.bos_token_id": 1,
}

HEADER_BYTES = 2000
"""The header of a small model with this vocabulary ends about here."""


def read(path: Path) -> GgufHeader:
    return read_gguf_header(MappedFile(path))


def packed(*parts: tuple[str, Any]) -> bytes:
    """Little-endian fields; `s` is a string with its length before it."""
    out = b""
    for kind, value in parts:
        out += struct.pack("<Q", len(value)) + value if kind == "s" else struct.pack(f"<{kind}", value)
    return out


def header(num_tensors: int, num_pairs: int, *parts: tuple[str, Any], version: int = 3) -> bytes:
    return b"GGUF" + packed(("I", version), ("Q", num_tensors), ("Q", num_pairs), *parts)


def tensor(name: bytes, dims: list[int], kind: int = 0, offset: int = 0) -> list[tuple[str, Any]]:
    return [("s", name), ("I", len(dims)), *(("Q", dim) for dim in dims), ("I", kind), ("Q", offset)]


def big_array(key: bytes) -> list[tuple[str, Any]]:
    """More than half of the items that are read."""
    count = MAX_ITEMS // 2 + 1
    return [("s", key), ("I", 9), ("I", 0), ("Q", count), (f"{count}s", bytes(count))]


def test_every_value_type_is_read_as_the_gguf_package_wrote_it(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    values = {
        "uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 2**32 - 1, "int32": -(2**31),
        "uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.5, "float64": 1e-300, "bool": True,
        "string": "Grüße, 世界",
    }  # fmt: skip
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(kind, value)
    arrays = {"ints": [1, -2, 3], "floats": [0.25, 0.5], "texts": ["a", "", "é"], "flags": [True, False]}
    for key, array in arrays.items():
        writer.add_array(key, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = read(tmp_path / "x.gguf").metadata
    assert {key: metadata._values[key] for key in values} == values
    assert {key: metadata._values[key] for key in arrays} == arrays


def test_nested_arrays_are_read_to_a_bounded_depth(tmp_path: Path):
    inner = packed(("I", 0), ("Q", 2)) + b"\1\2"
    shallow = header(0, 1, ("s", b"k"), ("I", 9), ("I", 9), ("Q", 1)) + inner
    (tmp_path / "x.gguf").write_bytes(shallow)
    assert read(tmp_path / "x.gguf").metadata._values["k"] == [[1, 2]]
    deep = header(0, 1, ("s", b"k"), ("I", 9)) + packed(("I", 9), ("Q", 1)) * 2000 + inner
    (tmp_path / "x.gguf").write_bytes(deep)
    with pytest.raises(CorruptFileError, match="k at byte"):
        read(tmp_path / "x.gguf")


def test_tensors_lie_where_the_gguf_package_finds_them(write_llama: WriteLlama):
    file = write_llama(quant="Q4_1")
    reference = {t.name: t for t in gguf.GGUFReader(file.path).tensors}
    checkpoint = open_checkpoint(file.path)
    assert list(checkpoint) == list(reference)
    for name, tensor in checkpoint.items():
        assert tensor.shape == tuple(int(n) for n in reversed(reference[name].shape))
        assert tensor.dtype == reference[name].tensor_type.name
        assert bytes(tensor.buffer()) == reference[name].data.tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the magic number at byte 0 takes 4 bytes, but the file has 0"),
        (b"GGML" + bytes(20), "does not start with GGUF"),
        (header(2**60, 0), f"the number of tensors at byte 8 is {2**60}, more than the file has room for"),
        (header(0, 2**60), "the number of metadata pairs at byte 16"),
        (header(0, 1, ("Q", 2**63), ("Q", 0)), "the length of a metadata key at byte 24"),
        (header(0, 1, ("s", b"key"), ("I", 99), ("Q", 0)), "key at byte 39 has the unknown type 99"),
        (header(0, 1, ("s", b"key"), ("I", 9), ("I", 8), ("Q", 2**50)), "the length of key at byte 43"),
        (header(0, 1, ("s", b"key"), ("I", 8), ("s", b"\xff")), "key at byte 39 is not UTF-8"),
        (header(0, 2, *[("s", b"key"), ("I", 0), ("B", 1)] * 2), "'key' stands there twice"),
        (header(1, 0, *tensor(b"x", [0])), "'x': shape .0. has an empty dimension"),
        (header(1, 0, *tensor(b"x", [1] * 5)), "'x' has 5 dimensions"),
        (header(1, 0, *tensor(b"x", [2**40, 2**40])), "'x' at byte .* takes"),
        (header(1, 0, *tensor(b"x", [4], offset=2**63)), "'x' at byte"),
        (
            header(1, 0, *tensor(b"x", [4], offset=7)) + bytes(99),
            "offset 7 is not a multiple of the alignment 32",
        ),
        (header(1, 0, *tensor(b"x", [33], kind=3)) + bytes(99), "rows of 33 do not divide into Q4_1 blocks"),
        (
            header(2, 0, *tensor(b"x", [4]), *tensor(b"x", [4], offset=32)) + bytes(99),
            "'x' stands there twice",
        ),
        (header(2, 0, *tensor(b"x", [4]), *tensor(b"y", [4])) + bytes(99), "'y' at byte 96 overlaps 'x'"),
        (header(0, 1, ("s", b"general.alignment"), ("I", 4), ("I", 33)), "general.alignment is 33"),
    ],
)
def test_broken_headers_are_named_with_their_place(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CorruptFileError, match=message) as caught:
        read(tmp_path / "x.gguf")
    assert str(tmp_path / "x.gguf") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(0, 0, version=1), "GGUF version 1; versions 2 and 3"),
        (header(0, 0, version=3 << 24), "big-endian"),
        (
            header(0, 1, ("s", b"key"), ("I", 9), ("I", 0), ("Q", MAX_ITEMS + 1)) + bytes(MAX_ITEMS + 1),
            f"key at byte 43 has {MAX_ITEMS + 1} items",
        ),
        (
            header(0, 2, *[part for key in (b"a", b"b") for part in big_array(key)]),
            f"b at byte .* has {MAX_ITEMS // 2 + 1} items, with which .* have {MAX_ITEMS + 2}; at most",
        ),
        (
            header(1, 0, *tensor(b"x", [4], kind=9)) + bytes(99),
            "'x': type number 9 cannot be read; these can: F32",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UnsupportedCheckpointError, match=message):
        read(tmp_path / "x.gguf")


def test_truncation_anywhere_is_an_error(write_llama: WriteLlama, tmp_path: Path):
    content = write_llama(metadata=VOCABULARY).path.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [*range(HEADER_BYTES + 50), len(content) - 33]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read(path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "damaged.gguf"


@pytest.fixture(scope="module")
def whole(write_llama_once: WriteLlama) -> bytes:
    """A sound file, for tests that damage it."""
    return write_llama_once(metadata=VOCABULARY).path.read_bytes()


flips = st.lists(st.tuples(st.integers(0, HEADER_BYTES), st.integers(0, 255)), min_size=1, max_size=6)


@given(flips=flips)
@example(flips=[(8, 255)])
def test_damaged_file_is_planned_or_refused(scratch: Path, whole: bytes, flips: list[tuple[int, int]]):
    content = bytearray(whole)
    for place, byte in flips:
        content[place] = byte
    scratch.write_bytes(content)
    try:
        plan_conversion(scratch)
    except CheckpointError as error:
        assert str(scratch) in str(error)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.attention.sliding_window": "wide"}, "sliding_window is to be a whole number, not str"),
        ({"llama.vocab": 1, "tokenizer.chat_template": 3}, "chat_template is to be a string, not int"),
        ({"tokenizer.ggml.token_type": [1]}, "8 tokens, but 1 in tokenizer.ggml.token_type"),
        ({"tokenizer.ggml.scores": [1] * 8}, "scores is to be an array of numbers, not of int"),
        ({"tokenizer.ggml.scores": [1.0]}, "does not give every token's score"),
        ({"tokenizer.ggml.eos_token_id": 99}, "eos_token_id is 99; there are 8 tokens"),
        (
            {"tokenizer.ggml.tokens": ["x"] * 301, "tokenizer.ggml.token_type": [1] * 301},
            "301 tokens, but the embedding has 300 rows",
        ),
    ],
)
def test_contradictory_metadata_is_named(write_llama: WriteLlama, metadata: dict[str, Any], message: str):
    file = write_llama(metadata=VOCABULARY | metadata)
    with pytest.raises(CorruptFileError, match=message):
        plan_conversion(file.path)
