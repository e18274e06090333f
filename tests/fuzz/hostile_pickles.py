"""Pickles that torch.save would not write: those that run code, those that lie, those that grow.

Each comes with what the refusal must say. `MARKER` stands where a command would leave its trace.
"""

from pathlib import Path

from fuzz.pickles import (
    HOOKS,
    beside_weights,
    counts,
    name,
    number,
    pickled,
    storage,
    tensor,
    text,
    tuple_of,
    zipped,
)

MARKER = "it_ran"
COMMAND = f"touch {MARKER}"


def write_all(folder: Path, pickles: dict[str, tuple[bytes, str]]) -> None:
    for title, (pickle, _) in pickles.items():
        (folder / title).write_bytes(zipped(pickle))


def called(module: str, attribute: str, *arguments: bytes) -> bytes:
    return beside_weights(name(module, attribute) + tuple_of(*arguments) + b"R")


def named_on_stack(module: bytes, attribute: bytes, *arguments: bytes) -> bytes:
    return beside_weights(module + attribute + b"\x93" + tuple_of(*arguments) + b"R")


_RUN = text(COMMAND)
_EVAL = text(f"__import__('os').system('{COMMAND}')")

CODE: dict[str, tuple[bytes, str]] = {
    "os.system": (called("os", "system", _RUN), r"names 'os\.system', which is not needed"),
    "posix.system": (called("posix", "system", _RUN), r"names 'posix\.system',"),
    "eval": (called("builtins", "eval", _EVAL), r"names 'builtins\.eval',"),
    "eval of Python 2": (called("__builtin__", "eval", _EVAL), r"names '__builtin__\.eval',"),
    "exec": (called("builtins", "exec", _EVAL), r"names 'builtins\.exec',"),
    "import": (called("builtins", "__import__", text("antigravity")), r"names 'builtins\.__import__',"),
    "getattr": (called("builtins", "getattr", text("a"), text("__class__")), r"names 'builtins\.getattr',"),
    "torch.load": (called("torch", "load", text("other.pt")), r"names 'torch\.load',"),
    "pickle in a pickle": (
        called("torch.storage", "_load_from_bytes", b"C\3\x80\2."),
        r"names 'torch\.storage\._load_from_",
    ),
    "torch.hub": (called("torch.hub", "load", text("x/y"), text("z")), r"names 'torch\.hub\.load',"),
    "subprocess": (called("subprocess", "Popen", _RUN), r"names 'subprocess\.Popen',"),
    "runpy": (called("runpy", "_run_code", _EVAL), r"names 'runpy\._run_code',"),
    "partial": (called("functools", "partial", _RUN), r"names 'functools\.partial',"),
    "namespace": (called("argparse", "Namespace"), r"names 'argparse\.Namespace',"),
    "defaultdict": (called("collections", "defaultdict"), r"names 'collections\.defaultdict',"),
    "reconstructor": (called("copyreg", "_reconstructor"), r"names 'copyreg\._reconstructor',"),
    "numpy": (called("numpy.core.multiarray", "_reconstruct"), r"names 'numpy\.core\.multiarray\._"),
    "quantised": (called("torch._utils", "_rebuild_qtensor"), r"holds a quantised tensor \('torch"),
    "device tensor": (
        called("torch._utils", "_rebuild_device_tensor_from_numpy"),
        r"stored as a numpy array",
    ),
    "name with a newline": (named_on_stack(text("os\n\x1b"), text("system"), _RUN), r"names 'os\\n\\x1b\.sy"),
    "name on the stack": (named_on_stack(text("os"), text("system"), _RUN), r"names 'os\.system',"),
    "path in a name": (named_on_stack(text("torch"), text("os.system"), _RUN), r"names 'torch\.os\.system',"),
    "path from what is allowed": (
        named_on_stack(text("torch._utils"), text("_rebuild_tensor_v2.__globals__")),
        r"_rebuild_tensor_v2\.__globals__',",
    ),
    "allowed name in another module": (
        named_on_stack(text("torch"), text("_utils._rebuild_tensor_v2")),
        r"names 'torch\._utils\._rebuild_tensor_v2',",
    ),
    "name from the memo": (
        beside_weights(text("system") + b"q\1" + text("os") + b"q\2h\2h\1\x93" + tuple_of(_RUN) + b"R"),
        r"names 'os\.system',",
    ),
    "name that is a number": (named_on_stack(number(1), text("system")), "a name is not text"),
    "name without end": (beside_weights(b"c" + b"a" * 400), "a name without end"),
    "INST": (beside_weights(b"(" + _RUN + b"ios\nsystem\n"), r"names 'os\.system',"),
    "INST of what is allowed": (beside_weights(b"(itorch\nSize\n"), "uses the opcode INST"),
    "OBJ": (beside_weights(b"(" + name("os", "system") + _RUN + b"o"), r"names 'os\.system',"),
    "OBJ of what is allowed": (beside_weights(b"(" + name("torch", "Size") + b"o"), "uses the opcode OBJ"),
    "NEWOBJ": (beside_weights(name("torch", "Size") + b")\x81"), "uses the opcode NEWOBJ"),
    "NEWOBJ_EX": (beside_weights(name("torch", "Size") + b")}\x92"), "uses the opcode NEWOBJ_EX"),
    "EXT1": (beside_weights(b"\x82\1"), "uses the opcode EXT1"),
    "EXT2": (beside_weights(b"\x83\1\0"), "uses the opcode EXT2"),
    "EXT4": (beside_weights(b"\x84\1\0\0\0"), "uses the opcode EXT4"),
    "BUILD of a tensor": (
        beside_weights(tensor() + b"}" + text("__class__") + b"Nsb"),
        r"sets attributes of a value of type Tensor \(BUILD\)",
    ),
    "BUILD of a list": (beside_weights(b"]}b"), r"sets attributes of a value of type list \(BUILD\)"),
    "BUILD of a function": (
        beside_weights(name("torch", "Size") + b"}" + text("read") + b"Nsb"),
        r"sets attributes of a value of type Callee \(BUILD\)",
    ),
    "BUILD with slots": (
        beside_weights(b"}" + tuple_of(b"N", b"}" + text("items") + b"Ns") + b"b"),
        r"sets attributes of a value of type dict \(BUILD\)",
    ),
    "PERSID": (beside_weights(b"Pname\n"), "uses the opcode PERSID"),
    "source code": (
        beside_weights(
            tuple_of(text("module"), name("torch", "Size"), text("x.py"), text("import os")) + b"Q"
        ),
        "a storage is not described as torch describes one",
    ),
    "call of a type": (called("torch", "float32"), "it calls something that cannot be called"),
    "call of a storage": (called("torch", "FloatStorage"), "it calls something that cannot be called"),
    "call of a text": (beside_weights(text("os.system") + tuple_of(_RUN) + b"R"), "cannot be called"),
    "call without a tuple": (
        beside_weights(name("torch", "Size") + b"]R"),
        "it calls something that cannot be called",
    ),
    "rebuild by another function": (
        called("torch._tensor", "_rebuild_from_type_v2", name("torch", "Size"), b"N", b")", b"N"),
        "not a way to rebuild a plain tensor",
    ),
    "text opcode": (beside_weights(b"I1\n"), "uses the opcode INT"),
    "text with escapes": (beside_weights(b"S'\\x41'\n"), "uses the opcode STRING"),
}
"""What runs code, or would with a reader that gives a pickle its powers."""

_PARAMETER = name("torch._utils", "_rebuild_parameter")
_HUGE = 1 << 62

LIES: dict[str, tuple[bytes, str]] = {
    "offset beyond": (pickled(text("w"), tensor(offset=number(1))), "'w': its last element 6 is outside sto"),
    "offset negative": (pickled(text("w"), tensor(offset=number(-1))), "'w': its shape, strides or offset"),
    "shape too large": (pickled(text("w"), tensor(counts(3, 3))), "'w': its last element 8 is outside"),
    "shape negative": (
        pickled(text("w"), tensor(counts(-2, -3))),
        "'w': its shape, strides or offset are not",
    ),
    "shape absurd": (
        pickled(text("w"), tensor(counts(*[_HUGE] * 2))),
        "'w': its last element 184467.* is outside",
    ),
    "shape beyond 64 bits": (pickled(text("w"), tensor(counts(1 << 64, 1))), "'w': its shape, strides or"),
    "strides negative": (pickled(text("w"), tensor(strides=counts(3, -1))), "'w': its shape, strides or"),
    "strides absurd": (
        pickled(text("w"), tensor(strides=counts(_HUGE, 1))),
        "'w': its last element .* is out",
    ),
    "strides of nothing": (
        pickled(text("w"), tensor(counts(1 << 40, 1 << 20), counts(0, 0))),
        "'w': its shape .* as it repeats the same elements",
    ),
    "strides too few": (pickled(text("w"), tensor(strides=counts(1))), "'w': its shape, strides or offset"),
    "shape of flags": (pickled(text("w"), tensor(tuple_of(b"\x88", b"\x88"))), "'w': its shape, strides or"),
    "shape of text": (pickled(text("w"), tensor(text("ab"))), "'w': its shape, strides or offset are not"),
    "33 dimensions": (
        pickled(text("w"), tensor(counts(*[1] * 33), counts(*[1] * 33))),
        "'w': its shape, strides or offset are not",
    ),
    "storage that is not there": (
        pickled(text("w"), tensor(over=storage("7"))),
        "'w': its storage '7' is not in the file",
    ),
    "storage too long": (
        pickled(text("w"), tensor(over=storage(numel=7))),
        "'w': storage '0' has 24 bytes, not 7 times 4",
    ),
    "storage too short": (
        pickled(text("w"), tensor(counts(1), counts(1), over=storage(numel=5))),
        "'w': storage '0' has 24 bytes, not 5 times 4",
    ),
    "storage negative": (pickled(text("w"), tensor(over=storage(numel=-1))), "a storage is not described"),
    "storage of two types": (
        pickled(text("w"), tensor(), text("v"), tensor(over=storage(kind="IntStorage"))),
        "storage '0' is described in two ways",
    ),
    "storage of two lengths": (
        pickled(text("w"), tensor(), text("v"), tensor(over=storage(numel=3))),
        "storage '0' is described in two ways",
    ),
    "storage of no type": (
        pickled(text("w"), tensor(over=storage(kind="float32"))),
        "a storage is not described as torch describes one",
    ),
    "part outside": (
        pickled(
            text("w"), tensor(over=storage("0", "FloatStorage", 6, tuple_of(text("v"), number(4), number(3))))
        ),
        "a part of a storage lies outside it",
    ),
    "tensor over a text": (pickled(text("w"), tensor(over=text("0"))), "not a storage, an offset"),
    "parameter of a list": (
        pickled(text("w"), _PARAMETER + tuple_of(b"]", b"\x88", HOOKS) + b"R"),
        "not a ten",
    ),
    "nothing on the stack": (b"\x80\2t.", "a container ends that was not begun"),
    "nothing to stop with": (b"\x80\2.", "it takes a value that is not there"),
    "values left over": (b"\x80\2}}.", "it ends with values left over"),
    "bytes left over": (
        pickled(text("w"), tensor()) + b"}.",
        "the pickle ends at byte .* before its zip entry",
    ),
    "no end": (pickled(text("w"), tensor())[:-1], "it goes on after byte"),
    "protocol": (b"\x80\7}.", "its protocol is not 2 to 5"),
    "opcode": (b"\x80\2\xff.", "there is no opcode 0xff"),
    "memo": (b"\x80\2h\5.", "it refers to value 5, which is not there"),
    "text that is not UTF-8": (b"\x80\2X\2\0\0\0\xff\xfe.", "a text is not UTF-8"),
    "entry of a list": (b"\x80\2]K\1K\2s.", "it sets entries of something that is not a dict"),
    "half an entry": (b"\x80\2}(K\1u.", "it sets entries of something that is not a dict"),
    "item of a dict": (b"\x80\2}K\1a.", "it appends to something that is not a list"),
    "item of no set": (b"\x80\4](K\1\x90.", "it adds to something that is not a set"),
    "key that is a dict": (
        pickled(b"}", tensor()),
        "a dict that cannot be read: a key is a value of type dict",
    ),
    "pairs that are none": (
        b"\x80\2" + name("collections", "OrderedDict") + b"]]K\1aa\x85R.",
        r"arguments of collections\.OrderedDict: not a list of pairs",
    ),
}
"""What does not fit together."""

_DEEP = 400_000
_LAUGHS = b"".join(
    text(f"level {level}") + b"}(" + b"".join(text(str(i)) + b"h\0" for i in range(10)) + b"uq\0"
    for level in range(30)
)
_LONG = text("k" * 1_000_000)

BOMBS: dict[str, tuple[bytes, str]] = {
    "length of a text": (b"\x80\4\x8d" + b"\xff" * 8 + b".", "it goes on after byte"),
    "length of bytes": (b"\x80\4\x8e" + b"\xff" * 7 + b"\x0f.", "it goes on after byte"),
    "length of a frame": (b"\x80\4\x95" + b"\xff" * 7 + b"\x0f}.", "a frame of .* bytes passes the end"),
    "length of a number": (b"\x80\2\x8b\xff\xff\xff\x7f.", "uses the opcode LONG4"),
    "marks": (b"\x80\2" + b"(" * _DEEP + b".", "more than 1000 levels"),
    "nested tuples": (b"\x80\2N" + b"\x85" * _DEEP + b".", "holds a tuple, not a dict"),
    "nested tuples as a key": (
        b"\x80\2}N" + b"\x85" * _DEEP + b"Ns.",
        "a dict that cannot be read: a key is a value of type tuple",
    ),
    "nested dicts": (
        b"\x80\2" + (b"}(" + text("a")) * 60 + tensor() + b"u" * 60 + b".",
        "nested without end, or contain themselves",
    ),
    "dict in itself": (
        b"\x80\2}q\0(" + text("a") + b"h\0" + text("b") + tensor() + b"u.",
        "nested without end, or contain themselves",
    ),
    "a billion names": (
        pickled(text("level"), b"}(" + text("w") + tensor() + b"uq\0", _LAUGHS),
        "nested without end, or contain themselves",
    ),
    "a billion entries": (
        pickled(text("level"), b"}(" + text("w") + b"Nuq\0", _LAUGHS),
        "nested without end, or contain themselves",
    ),
    "dicts": (b"\x80\2" + b"}" * 1_200_000 + b".", "more than 1000000 objects"),
    "texts": (b"\x80\2" + text("ab") * 1_200_000 + b".", "more than 1000000 objects"),
    "opcodes": (b"\x80\2" + b"N" * 3_100_000 + b".", "more than 3000000 opcodes"),
    "memo entries": (b"\x80\4}" + b"\x94" * 1_200_000 + b".", "more than 1000000 memo entries"),
    "entries": (
        b"\x80\2}(" + b"".join(b"J" + i.to_bytes(4, "little") + b"N" for i in range(1_100_000)) + b"u.",
        "more than 1000000 objects",
    ),
    "pairs again and again": (
        b"\x80\2]("
        + b"".join(b"(K\1K\2t" for _ in range(1000))
        + b"e\x85q\0(("
        + (name("collections", "OrderedDict") + b"h\0R") * 2000
        + b"t.",
        "more than 1000000 objects",
    ),
    "keys of one hash": (
        b"\x80\2}("
        + b"".join(
            b"\x8a\x0c" + (i * ((1 << 61) - 1)).to_bytes(12, "little") + b"N" for i in range(10, 100_000)
        )
        + b"u.",
        "a dict that cannot be read: a key is a value of type int",
    ),
    "long names": (
        pickled(_LONG, b"}(" + b"".join(text(str(i)) + tensor() for i in range(2000)) + b"u"),
        "more than 1000 characters",
    ),
    "long name of a module": (
        beside_weights(_LONG + b"q\1" + text("x") + b"\x93"),
        r"names 'kkk.*'\.\.\., which",
    ),
}
"""What takes far more time or memory than its size, if it is let."""
