"""Reads a pickle without running it: only the opcodes that `torch.save` writes are known.

The standard library's unpicklers can be given an allowlist of names, but keep the rest of their powers: both
set attributes of what they have made, and the one in C reserves memory for any length or memo index that a
file announces. Here an opcode that is not in the table is refused by name.

Source: pickletools.py of the Python standard library, protocols 2 to 5.
"""

import struct
from collections.abc import Callable
from typing import Any, NoReturn

from msgspec import Struct

from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.torch_file.machine import Machine
from tune_checkpoint.torch_file.values import OPAQUE, Storage

MAX_STEPS = 3_000_000
"""Opcodes. A tensor takes about 25."""

Step = Callable[[Machine], None]


class Pickled(Struct, frozen=True):
    """What a pickle holds."""

    value: Any
    end: int
    """Offset of the byte after it."""
    storages: dict[str, Storage]
    """Those that it names, by key."""


def unpickle(file: MappedFile, start: int, end: int) -> Pickled:
    """Read the pickle that begins at a byte of a file.

    Args:
        file: the file.
        start: where the pickle begins.
        end: where it must have ended.

    Raises:
        CorruptFileError: it breaks the format.
        UnsupportedCheckpointError: it needs a name or an opcode that is not allowed, or is too large.
    """
    machine = Machine(file, start, end)
    for _ in range(MAX_STEPS):
        opcode = machine.opcode()
        if opcode == _STOP:
            return Pickled(machine.pop_last(), machine.offset, machine.storages)
        step = _STEPS.get(opcode)
        if step is None:
            _refuse(machine, opcode)
        step(machine)
    machine.too_large("opcodes", MAX_STEPS)


def _refuse(machine: Machine, opcode: int) -> NoReturn:
    from pickletools import opcodes

    info = next((info for info in opcodes if info.code == chr(opcode)), None)
    if info is None:
        machine.corrupt(f"there is no opcode {opcode:#x}")
    if info.name == "INST":
        machine.global_name(machine.line(), machine.line())  # which names what it would call
    machine.refuse(f"uses the opcode {info.name}, which torch.save does not write")


def _protocol(machine: Machine) -> None:
    if not 2 <= machine.unsigned(1) <= 5:
        machine.corrupt("its protocol is not 2 to 5")


def _constant(value: object) -> Step:
    return lambda machine: machine.push(value)


def _number(layout: str) -> Step:
    form = struct.Struct(layout)
    return lambda machine: machine.push(form.unpack(machine.take(form.size))[0])


def _long(machine: Machine) -> None:
    machine.push_new(int.from_bytes(machine.take(machine.unsigned(1)), "little", signed=True))


def _text(length_bytes: int) -> Step:
    return lambda machine: machine.push_new(machine.text(machine.take(machine.unsigned(length_bytes))))


def _bytes(length_bytes: int) -> Step:
    """Bytes have no part in the weights: they are passed over."""

    def step(machine: Machine) -> None:
        machine.take(machine.unsigned(length_bytes))
        machine.push(OPAQUE)

    return step


def _tuple_of(length: int) -> Step:
    def step(machine: Machine) -> None:
        values = [machine.pop() for _ in range(length)]
        machine.push_new(tuple(reversed(values)))

    return step


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _add_to_set(machine: Machine) -> None:
    machine.pop_mark()
    if machine.top() is not OPAQUE:
        machine.corrupt("it adds to something that is not a set")


def _frozen_set(machine: Machine) -> None:
    machine.pop_mark()
    machine.push(OPAQUE)


def _named(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.global_name(module, name)


_STOP = ord(".")
_STEPS: dict[int, Step] = {
    0x80: _protocol,
    0x95: Machine.frame,
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("K"): _number("<B"),
    ord("M"): _number("<H"),
    ord("J"): _number("<i"),
    ord("G"): _number(">d"),
    0x8A: _long,
    ord("U"): _text(1),
    ord("T"): _text(4),
    0x8C: _text(1),
    ord("X"): _text(4),
    0x8D: _text(8),
    ord("C"): _bytes(1),
    ord("B"): _bytes(4),
    0x8E: _bytes(8),
    0x96: _bytes(8),
    ord("("): Machine.mark,
    ord(")"): _constant(()),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("t"): lambda machine: machine.push_new(tuple(machine.pop_mark())),
    ord("]"): lambda machine: machine.push_new([]),
    ord("a"): lambda machine: machine.append([machine.pop()]),
    ord("e"): lambda machine: machine.append(machine.pop_mark()),
    ord("}"): lambda machine: machine.push_new({}),
    ord("s"): _set_item,
    ord("u"): lambda machine: machine.set_items(machine.pop_mark()),
    0x8F: _constant(OPAQUE),
    0x90: _add_to_set,
    0x91: _frozen_set,
    ord("q"): lambda machine: machine.remember(machine.unsigned(1)),
    ord("r"): lambda machine: machine.remember(machine.unsigned(4)),
    0x94: Machine.remember_next,
    ord("h"): lambda machine: machine.recall(machine.unsigned(1)),
    ord("j"): lambda machine: machine.recall(machine.unsigned(4)),
    ord("c"): lambda machine: machine.global_name(machine.line(), machine.line()),
    0x93: _named,
    ord("R"): Machine.call,
    ord("b"): Machine.build,
    ord("Q"): Machine.storage,
}
