"""Writing files for torch.load, held against torch, zipfile, and the reader of this package."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tune_checkpoint.dtypes import ITEM_BYTES
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.torch_file.layout import torch_layout
from tune_checkpoint.torch_file.reader import read_torch_file
from tune_checkpoint.torch_file.values import DTYPES
from tune_checkpoint.torch_file.zip_entries import LOCAL, read_entries

TORCH_DTYPES = {spelling: getattr(torch, name) for name, (spelling, _) in DTYPES.items() if spelling}
Contents = dict[str, tuple[str, tuple[int, ...], bytes]]
"""Name -> type, shape and bytes."""


def contents(*entries: tuple[str, tuple[int, ...]]) -> Contents:
    rng = np.random.default_rng(0)
    return {
        f"{index}.{dtype}": (dtype, shape, rng.integers(0, 2, size, np.uint8).tobytes())
        for index, (dtype, shape) in enumerate(entries)
        for size in (int(np.prod(shape)) * ITEM_BYTES[dtype],)
    }


def write(path: Path, tensors: Contents) -> Path:
    layout = torch_layout([(name, dtype, shape) for name, (dtype, shape, _) in tensors.items()])
    data = [data for _, _, data in tensors.values()]
    with path.open("wb") as file:
        for offset, content in (
            *layout.pieces([zlib.crc32(part) for part in data]),
            *zip(layout.offsets, data, strict=True),
        ):
            file.seek(offset)
            file.write(content)
    return path


def assert_loads(path: Path, tensors: Contents, **options: Any) -> None:
    loaded = torch.load(path, weights_only=True, **options)
    assert type(loaded) is dict
    assert list(loaded) == list(tensors)
    for name, (dtype, shape, data) in tensors.items():
        tensor = loaded[name]
        assert (tensor.dtype, tuple(tensor.shape)) == (TORCH_DTYPES[dtype], shape)
        assert tensor.stride() == torch.empty(shape, device="meta").stride()
        assert bytes(tensor.reshape(-1).view(torch.uint8).numpy()) == data


SHAPES: list[tuple[int, ...]] = [(), (3,), (2, 5), (0, 3), (3, 0), (1, 2, 1, 4, 2), (300, 2), (70_000,)]


@pytest.mark.parametrize("options", [{}, {"mmap": True}], ids=["read", "mapped"])
def test_torch_loads_every_type_and_shape(tmp_path: Path, options: dict[str, Any]):
    tensors = contents(*((dtype, shape) for dtype in ITEM_BYTES for shape in SHAPES))
    assert_loads(write(tmp_path / "x.pth", tensors), tensors, **options)


def test_reader_finds_what_was_written_where_it_was_announced(tmp_path: Path):
    tensors = contents(*((dtype, shape) for dtype in ITEM_BYTES for shape in SHAPES))
    specs = [(name, dtype, shape) for name, (dtype, shape, _) in tensors.items()]
    file = MappedFile(write(tmp_path / "x.pth", tensors))
    read = read_torch_file(file)
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in read] == specs
    assert tuple(tensor.offset for tensor in read) == torch_layout(specs).offsets
    assert file.size == torch_layout(specs).size
    for tensor in read:
        assert tensor.strides is None
        assert tensor.offset % 64 == 0
        assert file.view[tensor.offset : tensor.offset + tensor.nbytes] == tensors[tensor.name][2]


def test_checksums_are_right(tmp_path: Path):
    path = write(tmp_path / "x.pth", contents(("F32", (100,)), ("BF16", (0,)), ("F8_E5M2", (7, 7))))
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():  # the header before the entry has it as well
            assert LOCAL.unpack_from(content, info.header_offset)[6] == info.CRC


def test_a_file_without_tensors_is_an_empty_dict(tmp_path: Path):
    assert_loads(write(tmp_path / "x.pth", {}), {})


def test_bytes_depend_on_the_tensors_alone(tmp_path: Path):
    tensors = contents(("F32", (5, 5)), ("I64", (3,)))
    first, second = write(tmp_path / "first.pth", tensors), write(tmp_path / "second.bin", tensors)
    assert first.read_bytes() == second.read_bytes()


def test_tensors_can_be_put_in_place_in_any_order_without_checksums(tmp_path: Path):
    tensors = contents(("F32", (5, 5)), ("BF16", (3,)), ("U8", (1000,)))
    layout = torch_layout([(name, dtype, shape) for name, (dtype, shape, _) in tensors.items()])
    with (tmp_path / "x.pth").open("wb") as file:
        file.truncate(layout.size)
        placed = zip(layout.offsets, (data for _, _, data in tensors.values()), strict=True)
        for offset, content in reversed([*layout.pieces(), *placed]):
            file.seek(offset)
            file.write(content)
    assert_loads(tmp_path / "x.pth", tensors)
    assert_loads(tmp_path / "x.pth", tensors, mmap=True)


@pytest.mark.parametrize("write_sparse", ["ours", "torch's"])
def test_files_beyond_4_gb_are_written_and_read(tmp_path: Path, write_sparse: str):
    path = tmp_path / "x.pth"
    shapes = {"large": ("F32", (1200, 1 << 20)), "small": ("U8", (7,)), "huge": ("U8", (3, 1 << 30))}
    shapes["last"] = ("BF16", (3,))
    if write_sparse == "ours":
        layout = torch_layout([(name, dtype, shape) for name, (dtype, shape) in shapes.items()])
        with path.open("wb") as file:  # the tensors are holes, which take no room on the disk
            for offset, content in layout.pieces():
                file.seek(offset)
                file.write(content)
        assert path.stat().st_size == layout.size
    else:
        with torch.serialization.skip_data():
            state = {
                name: torch.empty(shape, dtype=TORCH_DTYPES[dtype]) for name, (dtype, shape) in shapes.items()
            }
            torch.save(state, path)
    with path.open("r+b") as file:
        offsets = {tensor.name: tensor.offset for tensor in read_torch_file(MappedFile(path))}
        for name, content in (("small", b"\1\2\3\4\5\6\7"), ("last", b"\x80\x3f" * 3)):
            file.seek(offsets[name])
            file.write(content)
    assert offsets["huge"] > 1 << 32
    loaded = torch.load(path, weights_only=True, mmap=True)
    assert {name: tuple(tensor.shape) for name, tensor in loaded.items()} == {
        name: shape for name, (_, shape) in shapes.items()
    }
    assert (loaded["small"].tolist(), loaded["last"].tolist()) == ([1, 2, 3, 4, 5, 6, 7], [1.0] * 3)


def test_more_tensors_than_a_plain_zip_file_can_have_are_written_and_read(tmp_path: Path):
    layout = torch_layout([(str(index), "U8", ()) for index in range(70_000)])
    with (tmp_path / "x.pth").open("wb") as file:
        for offset, content in layout.pieces():
            file.seek(offset)
            file.write(content)
    entries = read_entries(MappedFile(tmp_path / "x.pth"))
    assert tuple(entries[f"data/{index}"].offset for index in range(70_000)) == layout.offsets
    torchs_reader: Any = torch._C.PyTorchFileReader(str(tmp_path / "x.pth"))
    assert torchs_reader.get_all_records() == list(entries)
    assert torchs_reader.get_record_offset("data/69999") == layout.offsets[-1]


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two tensors have the same name"):
        torch_layout([("a", "F32", (1,)), ("a", "F32", (1,))])


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        st.tuples(
            st.sampled_from(sorted(ITEM_BYTES)), st.lists(st.integers(0, 6), max_size=5).map(tuple[int, ...])
        ),
        max_size=6,
    )
)
def test_what_is_written_is_read_by_torch_and_by_us(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, tuple[str, tuple[int, ...]]]
):
    made = contents(*shapes.values()).values()
    tensors: Contents = dict(zip(shapes, made, strict=True))
    path = write(tmp_path_factory.getbasetemp() / "round.pth", tensors)
    assert_loads(path, tensors, mmap=True)
    if tensors:
        read = read_torch_file(MappedFile(path))
        assert [(t.name, (t.dtype, t.shape)) for t in read] == list(shapes.items())
