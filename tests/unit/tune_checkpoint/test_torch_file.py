"""Reading what torch.save writes, held against torch.load on the same files."""

import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tune_checkpoint import CheckpointError, TensorSlice, UnsupportedCheckpointError
from tune_checkpoint.checkpoint import format_of
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.torch_file.reader import read_torch_file
from tune_checkpoint.torch_file.values import DTYPES

FORMATS = {"zip": True, "legacy": False}
SPELLINGS = {getattr(torch, name): spelling for name, (spelling, _) in DTYPES.items() if spelling}


def save(value: Any, path: Path, form: str = "zip", protocol: int = 2) -> Path:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=FORMATS[form])
    return path


def read(path: Path) -> dict[str, TensorSlice]:
    return {tensor.name: tensor for tensor in read_torch_file(MappedFile(path))}


def values(tensor: TensorSlice, dtype: torch.dtype) -> torch.Tensor:
    """What the slice describes, taken from the file by torch alone."""
    if not tensor.nbytes:
        return torch.empty(tensor.shape, dtype=dtype)
    strides = tensor.strides or torch.empty(tensor.shape, device="meta").stride()
    length = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, strides, strict=True))
    content = Path(tensor.path).read_bytes()[tensor.offset : tensor.offset + length * dtype.itemsize]
    return torch.frombuffer(bytearray(content), dtype=dtype).as_strided(tensor.shape, strides)


def element_bytes(tensor: torch.Tensor) -> bytes:
    """In C order."""
    return bytes(
        tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy()
    )


def assert_same(path: Path, expected: dict[str, torch.Tensor]) -> None:
    tensors = read(path)
    assert list(tensors) == list(expected)
    for name, reference in expected.items():
        tensor = tensors[name]
        assert tensor.path == str(path)
        assert (tensor.dtype, tensor.shape) == (SPELLINGS[reference.dtype], tuple(reference.shape))
        assert tensor.nbytes == reference.nbytes
        assert (tensor.strides is None) == reference.is_contiguous(), name
        if tensor.strides is not None:
            assert tensor.strides == reference.stride()
        assert element_bytes(values(tensor, reference.dtype)) == element_bytes(reference), name


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> str:
    return request.param


NOT_IN_LEGACY = {torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2}
"""Types that torch.save writes into the old format and torch.load cannot read from it."""


def some_tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    bytes_ = torch.arange(48, dtype=torch.uint8) % 2
    by_type = {f"type.{name}": bytes_.clone().view(dtype) for dtype, name in SPELLINGS.items()}
    return by_type | {
        "base": base,
        "transposed": base.t(),
        "column": base[:, 2],
        "rows": base[1:3],
        "every second": base[::2, ::3],
        "one row": base[2:3],
        "one column": base[:, 3:4],
        "expanded": base[0].expand(3, 6),
        "tied": base,
        "permuted": torch.arange(60, dtype=torch.int64).reshape(3, 4, 5).permute(2, 0, 1),
        "scalar": torch.tensor(3, dtype=torch.int16),
        "element": base[1, 1],
        "empty": torch.empty(0, 5),
        "empty inside": torch.empty(3, 0, 2, dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
        "größe.世界": torch.zeros(1),
    }


def test_tensors_are_those_of_torch_load(tmp_path: Path, form: str):
    state = {n: t for n, t in some_tensors().items() if form == "zip" or t.dtype not in NOT_IN_LEGACY}
    path = save(state, tmp_path / "x.pt", form)
    assert_same(path, torch.load(path, weights_only=True))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_is_read(tmp_path: Path, form: str, protocol: int):
    assert_same(save(some_tensors(), tmp_path / "x.pt", form, protocol), some_tensors())


def test_tied_tensors_are_one_place_in_the_file(tmp_path: Path, form: str):
    tensors = read(save(some_tensors(), tmp_path / "x.pt", form))
    assert tensors["tied"].offset == tensors["base"].offset == tensors["transposed"].offset
    assert tensors["rows"].offset == tensors["base"].offset + 6 * 4
    assert tensors["transposed"].strides == (1, 6)


def test_module_state_dict_with_metadata_is_read(tmp_path: Path, form: str):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    assert module.state_dict()._metadata  # pyright: ignore[reportAttributeAccessIssue]
    path = save(module.state_dict(), tmp_path / "x.pt", form)
    assert_same(path, dict(module.state_dict()))


def test_tensors_and_parameters_with_attributes_are_read(tmp_path: Path, form: str):
    parameter, tensor = torch.nn.Parameter(torch.randn(2)), torch.randn(3, 2).t()
    parameter.sharded, tensor.note = True, "text"  # pyright: ignore[reportAttributeAccessIssue]
    path = save({"parameter": parameter, "tensor": tensor}, tmp_path / "x.pt", form)
    assert_same(path, {"parameter": parameter, "tensor": tensor})


TRAINING = {
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    "epoch": 3,
    "seed": 2**70,
    "loss": -0.5,
    "done": None,
    "rng": [torch.get_rng_state(), (1, 2.5, "x" * 300)],
    "types": {torch.float16, torch.float8_e5m2},
    "device": torch.device("cpu"),
    "size": torch.Size([2, 3]),
    "raw": b"\xff\x00" * 200,
    "array": bytearray(b"abc"),
    "complex": 1 + 2j,
    "frozen": frozenset({1, 2}),
    (1, "a"): True,
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("key", ["model", "state_dict", "module", "model_state_dict"])
def test_state_dict_is_found_in_what_training_programs_save(
    tmp_path: Path, form: str, key: str, protocol: int
):
    state = {"a.weight": torch.randn(2, 2), "b": torch.zeros(1)}
    wrapped = TRAINING | {key: OrderedDict(note="no tensor", **state), "extra": {"x": torch.ones(1)}}
    assert_same(save(wrapped, tmp_path / "x.pt", form, protocol), state)


def test_wrapper_in_a_wrapper_is_opened(tmp_path: Path):
    path = save({"state_dict": {"model": {"w": torch.ones(2)}}, "step": 1}, tmp_path / "x.pt")
    assert list(read(path)) == ["w"]


def test_nested_dicts_are_part_of_the_name(tmp_path: Path):
    nested = {
        "model": {"layers": {0: {"w": torch.ones(1)}, 1: {"w": torch.ones(2)}}, "empty": {}},
        "head": {"w": torch.ones(3)},
        "none": None,
    }
    path = save(nested, tmp_path / "x.pt")
    assert list(read(path)) == ["model.layers.0.w", "model.layers.1.w", "head.w"]
    save({"model": {"w": torch.ones(1)}, "bias": torch.ones(1)}, path)
    assert list(read(path)) == ["model.w", "bias"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2), "holds a single tensor, not a dict"),
        ([torch.ones(2)], "holds a list, not a dict"),
        ({"a": [torch.ones(1)], "b": 3}, "has no tensor in it; its dict holds 'a', 'b'"),
        ({}, "has no tensor in it; its dict holds nothing"),
        ({None: torch.ones(1)}, "a tensor below a value of type NoneType instead of a name"),
        ({"a": {"b.c": torch.ones(1)}, "a.b": {"c": torch.ones(1)}}, r"'a\.b\.c' stands there twice"),
        ({"k" * 2000: torch.ones(1)}, "more than 1000 characters: 'kkk"),
        ({"w": torch.zeros(2, dtype=torch.complex128)}, "'w': its type complex128 is not one of float64, .*"),
        ({"w": torch.zeros(2, dtype=torch.float8_e4m3fnuz)}, "'w': its type float8_e4m3fnuz is not one of"),
        ({"w": torch.zeros(2, dtype=torch.complex64).conj()}, "'w': its values are not what is stored"),
        (
            {"w": torch.eye(2).to_sparse()},
            r"holds a sparse tensor \('torch\._utils\._rebuild_sparse_tensor'\)",
        ),
        (
            {"w": torch.ones(2, device="meta")},
            r"holds a tensor without values \('torch\._utils\._reb",
        ),
        (torch.nn.Linear(1, 1), r"names 'torch\.nn\.modules\.linear\.Linear', .*never runs code"),
        (
            {"loss": np.float64(1)},
            r"names 'numpy.*\.scalar', which is not needed .* with the program that wrote",
        ),
    ],
)
def test_what_is_no_dict_of_plain_tensors_is_refused_by_name(
    tmp_path: Path, form: str, value: Any, message: str
):
    with pytest.raises(CheckpointError, match=message) as caught:
        read(save(value, tmp_path / "x.pt", form))
    assert str(caught.value).startswith(str(tmp_path / "x.pt"))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript_is_refused(tmp_path: Path):
    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    torch.jit.save(torch.jit.script(Twice()), tmp_path / "x.pt")
    with pytest.raises(UnsupportedCheckpointError, match="a TorchScript program, not a checkpoint"):
        read(tmp_path / "x.pt")


def test_an_expanded_tensor_that_the_file_has_no_room_for_is_called_that(tmp_path: Path, form: str):
    path = save({"v": torch.ones(1), "w": torch.ones(1).expand(5000, 3)}, tmp_path / "x.pt", form)
    message = (
        r"'w': its shape \[5000, 3\] stands for 60000 bytes, .* \(an expanded tensor\); save it with `\.con"
    )
    with pytest.raises(UnsupportedCheckpointError, match=message):
        read(path)


def test_torch_files_are_told_from_others_without_their_names(tmp_path: Path, form: str):
    content = save({"w": torch.ones(1)}, tmp_path / "x.pt", form).read_bytes()
    save_file({"w": torch.ones(1)}, tmp_path / "x.safetensors")
    for name, start in (("whole", content), ("cut", content[:200])):
        (tmp_path / name).write_bytes(start)
        assert format_of(tmp_path / name) == "torch"
    (tmp_path / "other").write_bytes((tmp_path / "x.safetensors").read_bytes())
    assert format_of(tmp_path / "other") == "safetensors"
    for name, other in {"empty": b"", "short": content[:3], "pickle": b"\x80\2}."}.items():
        (tmp_path / name).write_bytes(other)
        with pytest.raises(
            UnsupportedCheckpointError, match=r"not a file of safetensors, GGUF or torch\.save"
        ):
            format_of(tmp_path / name)


def test_reading_loads_neither_numpy_nor_torch(tmp_path: Path, form: str):
    code = """
import sys
from pathlib import Path
from tune_checkpoint.checkpoint import format_of
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.torch_file.reader import read_torch_file
read_torch_file(MappedFile(Path(sys.argv[1])))
print(*{"torch", "numpy", "pickle", "zipfile"} & sys.modules.keys())
"""
    path = save({"w": torch.ones(1)}, tmp_path / "x.pt", form)
    command = [sys.executable, "-c", code, str(path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "\n"


def test_file_cut_at_any_byte_is_an_error_of_ours(tmp_path: Path, form: str):
    state = {"w": torch.ones(2), "v": torch.zeros(3, dtype=torch.bfloat16).expand(2, 3)}
    path = save(state, tmp_path / "cut.pt", form)
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with pytest.raises(CheckpointError, match=r"cut\.pt: "):
            read(path)


@given(data=st.data())
def test_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    folder = tmp_path_factory.getbasetemp()
    form = data.draw(st.sampled_from(list(FORMATS)))
    path = folder / f"damaged-{form}.pt"
    whole = folder / f"whole-{form}.pt"
    if not whole.exists():
        save(TRAINING | {"model": {"w": torch.ones(2), "v": torch.ones(3, 2).t()}}, whole, form)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        for tensor in read(path).values():
            assert tensor.offset + tensor.nbytes <= len(content)
    except CheckpointError:
        pass


@given(data=st.data())
def test_any_views_of_storages_are_read_as_torch_reads_them(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    state: dict[str, torch.Tensor] = {}
    for index in range(data.draw(st.integers(1, 4))):
        shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
        dtype = data.draw(st.sampled_from(list(SPELLINGS)))
        base = torch.randint(0, 2, (int(np.prod(shape)) * dtype.itemsize,), dtype=torch.uint8)
        tensor = base.view(dtype).reshape(shape)
        state[f"base.{index}"] = tensor
        tensor = tensor.permute(data.draw(st.permutations(range(len(shape)))))
        for dim, size in enumerate(tensor.shape):
            start = data.draw(st.integers(0, size))
            tensor = tensor.narrow(dim, start, data.draw(st.integers(0, size - start)))
        state[f"view.{index}"] = tensor
    path = tmp_path_factory.getbasetemp() / "views.pt"
    save(state, path, data.draw(st.sampled_from(list(FORMATS))), data.draw(st.sampled_from([2, 4])))
    assert_same(path, state)
