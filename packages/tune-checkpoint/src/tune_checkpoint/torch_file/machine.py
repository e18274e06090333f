"""The stack machine that a pickle is a program for, with all powers taken from it but to build plain data.

What grows is counted, a call only reads its arguments, nothing sets an attribute. A refusal names the byte.

Source: pickletools.py of the Python standard library; torch/serialization.py of PyTorch 2.15 (what names a
storage).
"""

from typing import Any, NoReturn

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.torch_file.allowlist import (
    Callee,
    WrongArgumentsError,
    checked_key,
    is_dict,
    is_list,
    is_tuple,
    lookup,
    other_tensor,
)
from tune_checkpoint.torch_file.values import Storage, StorageType, shown

MAX_PICKLE_BYTES = 64_000_000
MAX_OBJECTS = 1_000_000
"""Containers, their entries, texts, and entries of the memo. A tensor takes about 10."""
MAX_DEPTH = 1_000
"""Containers that are begun and not ended."""
MAX_NAME_BYTES = 256
"""Of a module or of a name in it."""
ADVICE = (
    "tune-checkpoint never runs code from a checkpoint: "
    "convert the file to safetensors with the program that wrote it"
)


class Machine:
    """Has read a pickle up to some byte.

    Args:
        file: the file.
        start: where the pickle begins.
        end: where it must have ended.
    """

    def __init__(self, file: MappedFile, start: int, end: int) -> None:
        self.storages: dict[str, Storage] = {}
        self._path = file.path
        self._start = start
        self._data = file.view[start : min(end, start + MAX_PICKLE_BYTES)]
        self._at = self._opcode_at = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        """The stacks under the marks, the innermost last."""
        self._memo: dict[int, Any] = {}
        self._num_objects = 0

    @property
    def offset(self) -> int:
        """How far the pickle has been read, from the start of the file."""
        return self._start + self._at

    def opcode(self) -> int:
        """The next opcode."""
        self._opcode_at = self._at
        return self.take(1)[0]

    def take(self, num_bytes: int) -> memoryview:
        """The next bytes of the pickle."""
        taken = self._data[self._at : self._at + num_bytes]
        if len(taken) < num_bytes:
            if len(self._data) == MAX_PICKLE_BYTES:
                self.too_large("bytes", MAX_PICKLE_BYTES)
            self.corrupt(f"it goes on after byte {self._start + len(self._data)}, where it must have ended")
        self._at += num_bytes
        return taken

    def unsigned(self, num_bytes: int) -> int:
        """A little-endian number."""
        return int.from_bytes(self.take(num_bytes), "little")

    def line(self) -> str:
        """A name, up to the end of the line."""
        length = bytes(self._data[self._at : self._at + MAX_NAME_BYTES + 1]).find(b"\n")
        if length < 0:
            self.corrupt("a name without end")
        return self.text(self.take(length + 1)[:length])

    def text(self, encoded: memoryview) -> str:
        """UTF-8 to text."""
        try:
            return str(encoded, "utf-8")
        except UnicodeDecodeError:
            self.corrupt("a text is not UTF-8")

    def frame(self) -> None:
        """FRAME: how many bytes to read ahead. All are there already."""
        length = self.unsigned(8)
        if length > len(self._data) - self._at:
            self.corrupt(f"a frame of {length} bytes passes the end")

    def push(self, value: Any) -> None:
        """Put a value on the stack that takes no memory of its own to speak of."""
        self._stack.append(value)

    def push_new(self, value: Any) -> None:
        """Put a value on the stack that takes memory."""
        self._count(1)
        self._stack.append(value)

    def pop(self) -> Any:
        """Take the topmost value from the stack."""
        if not self._stack:
            self.corrupt("it takes a value that is not there")
        return self._stack.pop()

    def top(self) -> Any:
        """The topmost value."""
        if not self._stack:
            self.corrupt("it takes a value that is not there")
        return self._stack[-1]

    def mark(self) -> None:
        """Begin a container."""
        if len(self._below) == MAX_DEPTH:
            self.too_large("levels", MAX_DEPTH)
        self._below.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[Any]:
        """The values since the last mark."""
        if not self._below:
            self.corrupt("a container ends that was not begun")
        values, self._stack = self._stack, self._below.pop()
        return values

    def pop_last(self) -> Any:
        """The one value that a whole pickle leaves."""
        value = self.pop()
        if self._stack or self._below:
            self.corrupt("it ends with values left over")
        return value

    def remember(self, index: int) -> None:
        """Put the topmost value into the memo."""
        if len(self._memo) == MAX_OBJECTS:
            self.too_large("memo entries", MAX_OBJECTS)
        self._memo[index] = self.top()

    def remember_next(self) -> None:
        """The same, under the next number."""
        self.remember(len(self._memo))

    def recall(self, index: int) -> None:
        """Put a value of the memo on the stack."""
        if index not in self._memo:
            self.corrupt(f"it refers to value {index}, which is not there")
        self._stack.append(self._memo[index])

    def append(self, values: list[Any]) -> None:
        """Lengthen the list below."""
        target = self.top()
        if not is_list(target):
            self.corrupt("it appends to something that is not a list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Fill the dict below with keys and values in turn."""
        target = self.top()
        if not is_dict(target) or len(values) % 2:
            self.corrupt("it sets entries of something that is not a dict")
        self._count(len(values) // 2)
        try:
            target.update((checked_key(values[i]), values[i + 1]) for i in range(0, len(values), 2))
        except WrongArgumentsError as error:
            self.refuse(f"holds a dict that cannot be read: {error}")

    def global_name(self, module: Any, name: Any) -> None:
        """GLOBAL: put on the stack what stands for a name."""
        if type(module) is not str or type(name) is not str:
            self.corrupt("a name is not text")
        value = lookup(module, name)
        if value is None:
            what, kind = shown(f"{module}.{name}"), other_tensor(module, name)
            if kind:
                self.refuse(f"holds {kind} ({what}), which cannot be read")
            self.refuse(f"names {what}, which is not needed to store weights")
        self._stack.append(value)

    def call(self) -> None:
        """REDUCE: what a callee makes of its arguments."""
        arguments, callee = self.pop(), self.pop()
        if not isinstance(callee, Callee) or not is_tuple(arguments):
            self.corrupt("it calls something that cannot be called")
        self._count(1 + (len(arguments[0]) if arguments and is_list(arguments[0]) else 0))
        try:
            self._stack.append(callee.read(arguments))
        except WrongArgumentsError as error:
            self.corrupt(f"the arguments of {callee.name}: {error}")

    def build(self) -> None:
        """BUILD: attributes of a dict, as a state dict's `_metadata`, which say nothing of the weights."""
        state, target = self.pop(), self.top()
        if not is_dict(target) or not is_dict(state):
            self.refuse(f"sets attributes of {shown(target)} (BUILD), which is not needed to store weights")

    def storage(self) -> None:
        """BINPERSID: a storage, by ("storage", its class, key, device, number of elements[, part of it])."""
        match self.pop():
            case ("storage", StorageType(dtype=dtype), str(key), str(), int(numel), *part) if numel >= 0:
                view = self._part(part, numel)
            case _:
                self.corrupt("a storage is not described as torch describes one")
        root = self.storages.setdefault(key, Storage(key, dtype, numel))
        # A storage without elements has no bytes that the types could disagree on.
        if (root.dtype, root.numel) != (dtype, numel) and (root.numel or numel):
            self.corrupt(f"storage {shown(key)} is described in two ways")
        self.push_new(Storage(key, dtype, numel, view))

    def _part(self, part: list[Any], numel: int) -> tuple[int, int] | None:
        match part:
            case [] | [None]:
                return None
            case [(str(), int(offset), int(length))] if 0 <= offset <= offset + length <= numel:
                return offset, length
            case _:
                self.corrupt("a part of a storage lies outside it")

    def corrupt(self, what: str) -> NoReturn:
        """The pickle breaks the format."""
        raise CorruptFileError(
            f"{self._path}: the pickle is damaged at byte {self._start + self._opcode_at}: {what}"
        )

    def refuse(self, what: str) -> NoReturn:
        """The pickle does what it must not do."""
        raise UnsupportedCheckpointError(
            f"{self._path}: the pickle at byte {self._start + self._opcode_at} {what}; {ADVICE}"
        )

    def too_large(self, what: str, limit: int) -> NoReturn:
        """The pickle is out of all proportion."""
        raise UnsupportedCheckpointError(
            f"{self._path}: the pickle at byte {self._start} has more than {limit} {what}, "
            "which no model needs"
        )

    def _count(self, num_objects: int) -> None:
        self._num_objects += num_objects
        if self._num_objects > MAX_OBJECTS:
            self.too_large("objects", MAX_OBJECTS)
