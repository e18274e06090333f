"""Pickles made to run code or to lie: refused with the reason, and nothing runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fuzz.hostile_pickles import CODE, LIES, MARKER, write_all
from fuzz.pickles import counts, legacy, name, number, pickled, storage, tensor, text, tuple_of, zipped
from fuzz.watched import Watched, read_watched

from tune_checkpoint import TensorSlice
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.torch_file.reader import read_torch_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Watched]:
    """What a process that has read all of them says of each."""
    (folder / "files").mkdir()
    write_all(folder / "files", CODE | LIES)
    return read_watched(folder / "files")


@pytest.mark.parametrize("title", [*CODE, *LIES])
def test_hostile_pickle_is_refused_with_the_reason(results: dict[str, Watched], folder: Path, title: str):
    _, reason = (CODE | LIES)[title]
    assert results[title].message.startswith(f"{folder / 'files' / title}: ")
    assert re.search(reason, results[title].message), results[title].message
    assert len(results[title].message) < 1000 + len(str(folder))


def test_nothing_is_run_imported_or_opened(results: dict[str, Watched], folder: Path):
    """Beside the file itself, and its mapping."""
    events = {event for result in results.values() for event in result.events}
    assert events == {"open", "mmap.__new__"}
    assert not (folder / MARKER).exists()


def test_the_watch_sees_what_a_pickle_can_do(folder: Path):
    """The same call, read by a reader that makes it: the marker appears, so the files mean what they say."""
    code = "import pickle, sys; pickle._loads(open(sys.argv[1], 'rb').read())"
    content = b"\x80\2" + name("os", "system") + tuple_of(text(f"touch {MARKER}.control")) + b"R."
    (folder / "control").write_bytes(content)
    subprocess.run([sys.executable, "-c", code, str(folder / "control")], check=True, cwd=folder)
    assert (folder / f"{MARKER}.control").exists()


def read(path: Path, content: bytes) -> dict[str, TensorSlice]:
    path.write_bytes(content)
    return {tensor.name: tensor for tensor in read_torch_file(MappedFile(path))}


def test_pickles_of_the_corpus_are_sound_but_for_what_they_show(tmp_path: Path):
    content = zipped(pickled(text("w"), tensor(), text("v"), tensor(counts(3, 2), counts(1, 3))))
    tensors = read(tmp_path / "x.pt", content)
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert {key: (slice_.shape, slice_.strides) for key, slice_ in tensors.items()} == {
        "w": ((2, 3), None),
        "v": ((3, 2), (1, 3)),
    }
    assert loaded["v"].t().equal(loaded["w"])


def test_memo_index_takes_no_memory(tmp_path: Path):
    pickle = pickled(text("w"), tensor() + b"r\xff\xff\xff\xff", text("v"), b"j\xff\xff\xff\xff")
    assert list(read(tmp_path / "x.pt", zipped(pickle))) == ["w", "v"]


def test_oldest_way_to_rebuild_a_tensor_is_read_as_torch_reads_it(tmp_path: Path):
    rebuild = name("torch._utils", "_rebuild_tensor")
    pickle = pickled(text("w"), rebuild + tuple_of(storage(), number(1), counts(2), counts(3)) + b"R")
    tensors = read(tmp_path / "x.pt", zipped(pickle))
    reference = torch.load(tmp_path / "x.pt", weights_only=True)["w"]
    assert (tensors["w"].shape, tensors["w"].strides) == (reference.shape, reference.stride()) == ((2,), (3,))


def test_ordered_dict_and_texts_of_python_2_are_read_as_torch_reads_them(tmp_path: Path):
    pairs = b"](](U\1w" + tensor() + b"e](U\1v" + tensor(counts(6), counts(1)) + b"ee"
    pickle = b"\x80\2" + name("collections", "OrderedDict") + pairs + b"\x85R."
    tensors = read(tmp_path / "x.pt", zipped(pickle))
    reference = torch.load(tmp_path / "x.pt", weights_only=True)
    assert [(key, slice_.shape) for key, slice_ in tensors.items()] == [
        (key, tuple(value.shape)) for key, value in reference.items()
    ]


FLOATS = (6).to_bytes(8, "little") + bytes(range(24))
NO_PART = storage("0", "FloatStorage", 6, b"N")


def test_part_of_a_storage_in_the_old_format_is_read_as_torch_reads_it(tmp_path: Path):
    part = tuple_of(text("1"), number(2), number(3))
    over = storage("0", "FloatStorage", 6, part)
    pickle = pickled(
        text("w"), tensor(over=NO_PART), text("v"), tensor(counts(2), counts(1), number(1), over)
    )
    tensors = read(tmp_path / "x.pt", legacy(pickle, text("0"), FLOATS))
    reference = torch.load(tmp_path / "x.pt", weights_only=True)
    assert reference["v"].numpy().tobytes() == bytes(range(12, 20))
    offset = tensors["v"].offset
    assert (tmp_path / "x.pt").read_bytes()[offset : offset + tensors["v"].nbytes] == bytes(range(12, 20))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (legacy(pickled(text("w"), tensor(over=NO_PART)), b"", FLOATS), "32 bytes after the last storage"),
        (
            legacy(pickled(text("w"), tensor(over=NO_PART)), text("0"), FLOATS + b"\0"),
            "1 bytes after the last",
        ),
        (
            legacy(pickled(text("w"), tensor(over=NO_PART)), text("7"), FLOATS),
            "storage '7' belongs to no tensor",
        ),
        (
            legacy(pickled(text("w"), tensor(over=NO_PART)), text("0") * 2, FLOATS * 2),
            "'0' belongs to no tensor, or",
        ),
        (legacy(pickled(text("w"), tensor(over=NO_PART)), number(0), FLOATS), "storage a value of type int"),
        (
            legacy(pickled(text("w"), tensor(over=NO_PART)), text("0"), b"\5" + FLOATS[1:]),
            "has 5 elements there",
        ),
        (
            legacy(pickled(text("w"), tensor(over=NO_PART)), text("0"), FLOATS[:-1]),
            "storage '0' at byte .* takes 24",
        ),
        (
            legacy(pickled(text("w"), tensor(over=storage("0", "FloatStorage", 1 << 60, b"N"))), text("0"))
            + (1 << 60).to_bytes(8, "little"),
            "storage '0' at byte .* takes 4611686018427387904 bytes",
        ),
        (
            legacy(pickled(), b"").replace(b"M\xe9\3", b"M\xe8\3"),
            "has version 1001, but the file says a value",
        ),
        (legacy(pickled(), b"").replace(b"\x88u.", b"\x89u."), "written on a big-endian machine"),
    ],
)
def test_broken_old_format_is_refused_with_the_reason(tmp_path: Path, content: bytes, message: str):
    with pytest.raises(Exception, match=message) as caught:
        read(tmp_path / "x.pt", content)
    assert caught.type.__module__ == "tune_checkpoint.errors"
