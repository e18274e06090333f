"""The names of the tensors in an unpickled value, whatever it is wrapped in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.torch_file.allowlist import is_dict
from tune_checkpoint.torch_file.machine import MAX_OBJECTS
from tune_checkpoint.torch_file.values import Tensor, shown

WRAPPERS = ("model", "state_dict", "module", "model_state_dict")
"""The keys under which training programs put a state dict, beside an optimizer's and others."""
MAX_TENSORS = 200_000
MAX_DEPTH = 32
"""Of dicts in dicts."""
MAX_NAME_LENGTH = 1_000


def named_tensors(path: Path, value: Any) -> dict[str, Tensor]:
    """The tensors of a state dict by name, in its order.

    A dict without tensors of its own that has a state dict under a known key stands for that one. Other
    nested dicts are part of the state dict: their keys are joined by dots. What is not a tensor is left out.

    Raises:
        CorruptFileError: two tensors have one name, or a dict contains itself.
        UnsupportedCheckpointError: there is no tensor, or one has no name.
    """
    if not is_dict(value):
        raise UnsupportedCheckpointError(f"{path}: holds {_kind(value)}, not a dict of tensors by name")
    root = _unwrapped(value)
    tensors: dict[str, Tensor] = {}
    for name, tensor in _flattened(path, value if root is None else root):
        if name in tensors:
            raise CorruptFileError(f"{path}: tensor {shown(name)} stands there twice")
        tensors[name] = tensor
    if not tensors:
        keys = ", ".join(shown(key) for key in list(value)[:8]) or "nothing"
        raise UnsupportedCheckpointError(f"{path}: has no tensor in it; its dict holds {keys}")
    return tensors


def _unwrapped(value: dict[Any, Any], seen: tuple[int, ...] = ()) -> dict[Any, Any] | None:
    """The dict itself if it has a tensor, else the first that has one below the known keys."""
    if any(isinstance(item, Tensor) for item in value.values()):
        return value
    for key in WRAPPERS if len(seen) < len(WRAPPERS) else ():
        inner = value.get(key)
        if is_dict(inner) and (found := _unwrapped(inner, (*seen, id(value)))) is not None:
            return found
    return None


def _flattened(path: Path, root: dict[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, depth first, in bounded time and memory whatever refers to what."""
    num_entries = num_tensors = 0
    keys: list[Any] = [None]
    levels = [iter(root.items())]
    while levels:
        for keys[-1], value in levels[-1]:
            num_entries += 1
            if num_entries > MAX_OBJECTS or num_tensors > MAX_TENSORS or len(levels) > MAX_DEPTH:
                raise CorruptFileError(f"{path}: its dicts are nested without end, or contain themselves")
            if isinstance(value, Tensor):
                num_tensors += 1
                yield _joined(path, keys), value
            elif is_dict(value):
                keys.append(None)
                levels.append(iter(value.items()))
                break
        else:
            keys.pop()
            levels.pop()


def _joined(path: Path, keys: list[Any]) -> str:
    for key in keys:
        if type(key) not in (str, int):
            raise UnsupportedCheckpointError(f"{path}: holds a tensor below {shown(key)} instead of a name")
    texts = [str(key) for key in keys]
    if sum(map(len, texts)) > MAX_NAME_LENGTH:
        raise CorruptFileError(
            f"{path}: the name of a tensor has more than {MAX_NAME_LENGTH} characters: "
            f"{shown(max(texts, key=len))}"
        )
    return ".".join(texts)


def _kind(value: Any) -> str:
    return "a single tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
