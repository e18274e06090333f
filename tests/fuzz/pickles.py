"""Pickles and files of torch.save, put together opcode by opcode."""

import io
import zipfile


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def counts(*values: int) -> bytes:
    return tuple_of(*map(number, values))


def storage(key: str = "0", kind: str = "FloatStorage", numel: int = 6, *part: bytes) -> bytes:
    return tuple_of(text("storage"), name("torch", kind), text(key), text("cpu"), number(numel), *part) + b"Q"


HOOKS = name("collections", "OrderedDict") + b")R"


def tensor(
    shape: bytes = counts(2, 3),
    strides: bytes = counts(3, 1),
    offset: bytes = number(0),
    over: bytes = storage(),
) -> bytes:
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return rebuild + tuple_of(over, offset, shape, strides, b"\x89", HOOKS) + b"R"


def pickled(*items: bytes) -> bytes:
    """A dict of keys and values, which follow each other."""
    return b"\x80\x02}(" + b"".join(items) + b"u."


def beside_weights(value: bytes) -> bytes:
    """A sound state dict with one more value."""
    return pickled(text("w"), tensor(), text("x"), value)


def zipped(pickle: bytes, **others: bytes) -> bytes:
    """The pickle in a zip file as torch writes it, with one storage of six float32."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entries = {"data.pkl": pickle, "byteorder": b"little", "data/0": bytes(range(24)), "version": b"3\n"}
        for entry, content in (entries | others).items():
            archive.writestr(zipfile.ZipInfo(f"archive/{entry}"), content)
    return buffer.getvalue()


def legacy(pickle: bytes, keys: bytes, *storages: bytes) -> bytes:
    """The old format around a pickle."""
    system = pickled(text("little_endian"), b"\x88")
    magic = b"\x80\2\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    return b"".join((magic, b"\x80\2M\xe9\3.", system, pickle, b"\x80\2](" + keys + b"e.", *storages))
