"""The names that a pickle may use, and the inert data that stands for each.

Nothing here imports or calls what a name means in Python. A name that is not here is refused.

Source: torch/_utils.py, torch/_tensor.py and torch/storage.py of PyTorch 2.15 (the functions that rebuild a
tensor and their arguments); the names are a subset of those that `torch.load(weights_only=True)` takes.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

from msgspec import Struct

from tune_checkpoint.torch_file.values import (
    DTYPES,
    OPAQUE,
    STORAGE_DTYPES,
    Dtype,
    Opaque,
    Storage,
    StorageType,
    Tensor,
    shown,
)

Arguments = tuple[Any, ...]


class Callee(Struct, frozen=True, eq=False):
    """A function or class that a pickle may call, which is to say: whose arguments we read."""

    name: str
    read: Callable[[Arguments], Any]


class WrongArgumentsError(Exception):
    """A call whose arguments torch would not have written. The message says what is wrong."""


def lookup(module: str, name: str) -> Any | None:
    """What stands for a global name, None if the name is not allowed."""
    return _ALLOWED.get((module, name))


def other_tensor(module: str, name: str) -> str | None:
    """Which kind of tensor a name rebuilds that is not allowed, None of other names."""
    return _OTHER_TENSORS.get(name) if module == "torch._utils" else None


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether it is a list."""
    return type(value) is list


def is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    """Whether it is a dict."""
    return type(value) is dict


def is_tuple(value: object) -> TypeGuard[Arguments]:
    """Whether it is a tuple."""
    return type(value) is tuple


def _rebuild_tensor(arguments: Arguments) -> Tensor:
    """(storage, offset, shape, strides[, requires_grad, hooks[, metadata]])."""
    if len(arguments) not in (4, 6, 7) or not isinstance(arguments[0], Storage):
        raise WrongArgumentsError("not a storage, an offset, a shape and strides")
    storage, offset, shape, strides = arguments[:4]
    return Tensor(
        storage, storage.dtype, offset, shape, strides, arguments[6] if len(arguments) == 7 else None
    )


def _rebuild_tensor_v3(arguments: Arguments) -> Tensor:
    """The same, with the element type before the metadata: the storage is of bytes."""
    if len(arguments) not in (7, 8) or not isinstance(arguments[6], Dtype):
        raise WrongArgumentsError("not a storage, an offset, a shape, strides and an element type")
    tensor = _rebuild_tensor(arguments[:6])
    flags = arguments[7] if len(arguments) == 8 else None
    return Tensor(tensor.storage, arguments[6].name, tensor.offset, tensor.shape, tensor.strides, flags)


def _rebuild_parameter(arguments: Arguments) -> Tensor:
    """(tensor, requires_grad, hooks, state)."""
    if not arguments or not isinstance(arguments[0], Tensor):
        raise WrongArgumentsError("not a tensor")
    return arguments[0]


def _rebuild_from_type(arguments: Arguments) -> Tensor:
    """(function, class, its arguments, attributes): a tensor that has attributes."""
    if len(arguments) != 4 or arguments[0] not in _PLAIN_REBUILDS or not is_tuple(arguments[2]):
        raise WrongArgumentsError("not a way to rebuild a plain tensor")
    return arguments[0].read(arguments[2])


def _ordered_dict(arguments: Arguments) -> dict[Any, Any]:
    """() or, as Python 2 has it, (list of pairs)."""
    if not arguments:
        return {}
    if len(arguments) != 1 or not is_list(arguments[0]):
        raise WrongArgumentsError("not a list of pairs")
    result: dict[Any, Any] = {}
    for pair in arguments[0]:
        if not (is_list(pair) or is_tuple(pair)) or len(pair) != 2:
            raise WrongArgumentsError("not a list of pairs")
        result[checked_key(pair[0])] = pair[1]
    return result


def checked_key(key: Any) -> Any:
    """The key of a dict, if it is one that takes bounded time to look up: text, a number, a few of those."""
    for part in key if is_tuple(key) and len(key) <= 8 else (key,):
        # Longer integers can be chosen so that all have the same hash.
        small = type(part) is int and -(1 << 63) <= part < 1 << 64
        if not small and type(part) not in (str, float, bool, type(None), Tensor, Dtype, Opaque):
            raise WrongArgumentsError(f"a key is {shown(part)}")
    return key


def _plain_dict(arguments: Arguments) -> dict[Any, Any]:
    if arguments:
        raise WrongArgumentsError("a dict is made with its entries")
    return {}


def _opaque(arguments: Arguments) -> Any:
    return OPAQUE


_V2, _V3 = (
    Callee("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
    Callee("torch._utils._rebuild_tensor_v3", _rebuild_tensor_v3),
)
_PARAMETER = Callee("torch._utils._rebuild_parameter", _rebuild_parameter)
_PLAIN_REBUILDS = (_V2, _V3, _PARAMETER)

_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): Callee("torch._utils._rebuild_tensor", _rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _V2,
    ("torch._utils", "_rebuild_tensor_v3"): _V3,
    ("torch._utils", "_rebuild_parameter"): _PARAMETER,
    ("torch._utils", "_rebuild_parameter_with_state"): _PARAMETER,
    ("torch._tensor", "_rebuild_from_type_v2"): Callee(
        "torch._tensor._rebuild_from_type_v2", _rebuild_from_type
    ),
    ("torch", "Tensor"): OPAQUE,
    ("torch.nn.parameter", "Parameter"): OPAQUE,
    ("torch", "Size"): Callee("torch.Size", _opaque),
    ("torch", "device"): Callee("torch.device", _opaque),
    ("torch.storage", "UntypedStorage"): StorageType("uint8"),
    ("collections", "OrderedDict"): Callee("collections.OrderedDict", _ordered_dict),
    ("_codecs", "encode"): Callee("_codecs.encode", _opaque),  # how protocol 2 writes bytes
}
for _module in ("builtins", "__builtin__"):  # as Python 3 and 2 name it; protocol 2 has the latter
    _ALLOWED[_module, "dict"] = Callee("dict", _plain_dict)
    for _name in ("set", "frozenset", "complex", "bytearray"):
        _ALLOWED[_module, _name] = Callee(_name, _opaque)
for _name, _dtype in STORAGE_DTYPES.items():
    _ALLOWED["torch", _name] = StorageType(_dtype)
_OTHER_DTYPES = (
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
    *("complex32", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2"),
)
for _name in (*DTYPES, *_OTHER_DTYPES):
    _ALLOWED["torch", _name] = Dtype(_name)

_OTHER_TENSORS = {
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without values",
    "_rebuild_wrapper_subclass": "a tensor of a class of its own",
    "_rebuild_device_tensor_from_numpy": "a tensor that is stored as a numpy array",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "_rebuild_xla_tensor": "a tensor of another device",
}
