"""Zip files that are not as torch.save writes them: refused with what is wrong, or read if it is harmless."""

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fuzz.pickles import pickled, storage, tensor, text, zipped

from tune_checkpoint import CheckpointError, CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.torch_file.reader import read_torch_file
from tune_checkpoint.torch_file.zip_entries import CENTRAL, END, LOCAL, read_entries

PICKLE = pickled(text("w"), tensor())
SOUND = zipped(PICKLE)
"""Four entries: data.pkl, byteorder, data/0, version."""


def archive(*entries: tuple[str, bytes], comment: bytes = b"", method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of these entries, as Python writes it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as file:
        warnings.simplefilter("ignore")  # duplicate names
        file.comment = comment
        for name, content in entries:
            file.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def with_entries(*extra: tuple[str, bytes], comment: bytes = b"", method: int = zipfile.ZIP_STORED) -> bytes:
    entries = (("a/data.pkl", PICKLE), ("a/data/0", bytes(24)), *extra)
    return archive(*entries, comment=comment, method=method)


class Patch:
    """A sound file whose fields can be changed."""

    def __init__(self, content: bytes) -> None:
        self.bytes = bytearray(content)
        self.end = len(content) - END.size
        _, _, _, _, self.count, self.size, self.start, _ = END.unpack(content[self.end :])

    def central(self, index: int) -> int:
        """Where the directory describes an entry."""
        at = self.start
        for _ in range(index):
            at += CENTRAL.size + sum(CENTRAL.unpack_from(self.bytes, at)[10:13])
        return at

    def local(self, index: int) -> int:
        """Where an entry's own header is."""
        return CENTRAL.unpack_from(self.bytes, self.central(index))[16]

    def put(self, form: str, at: int, *values: int) -> None:
        struct.pack_into(f"<{form}", self.bytes, at, *values)


# Offsets of fields, as APPNOTE.TXT has them.
C_FLAGS, C_METHOD, C_CRC, C_SIZES, C_DISK, C_HEADER, C_NAME = 8, 10, 16, 20, 34, 42, 46
L_FLAGS, L_METHOD, L_CRC, L_SIZES, L_NAME = 6, 8, 14, 18, 30
E_DISK, E_COUNTS, E_SIZE, E_START, E_COMMENT = 4, 8, 12, 16, 20


def encrypted(file: Patch) -> None:
    file.put("H", file.central(2) + C_FLAGS, 1)
    file.put("H", file.local(2) + L_FLAGS, 1)


def unknown_flag(file: Patch) -> None:
    file.put("H", file.central(2) + C_FLAGS, 0x2000)


def other_sizes(file: Patch) -> None:
    file.put("LL", file.central(2) + C_SIZES, 20, 24)


def larger_in_the_directory(file: Patch) -> None:
    file.put("LL", file.central(2) + C_SIZES, 25, 25)


def larger_in_both(file: Patch) -> None:
    file.put("LL", file.central(2) + C_SIZES, 60, 60)
    file.put("LL", file.local(2) + L_SIZES, 60, 60)


def beyond_the_directory(file: Patch) -> None:
    file.put("LL", file.central(3) + C_SIZES, 9999, 9999)
    file.put("LL", file.local(3) + L_SIZES, 9999, 9999)


def another_name(file: Patch) -> None:
    file.bytes[file.local(2) + L_NAME + len("archive/data/")] = ord("7")


def another_method(file: Patch) -> None:
    file.put("H", file.local(2) + L_METHOD, 8)


def other_flags(file: Patch) -> None:
    file.put("H", file.local(2) + L_FLAGS, 8)


def same_place(file: Patch) -> None:
    file.put("L", file.central(3) + C_HEADER, file.local(2))


def no_header(file: Patch) -> None:
    file.put("L", file.central(2) + C_HEADER, file.local(2) + 1)


def header_beyond(file: Patch) -> None:
    file.put("L", file.central(2) + C_HEADER, 0xFFFFFFF0)


def wide_without_values(file: Patch) -> None:
    file.put("L", file.central(2) + C_HEADER, 0xFFFFFFFF)


def on_another_disk(file: Patch) -> None:
    file.put("H", file.central(2) + C_DISK, 1)


def several_disks(file: Patch) -> None:
    file.put("H", file.end + E_DISK, 1)


def fewer_on_this_disk(file: Patch) -> None:
    file.put("HH", file.end + E_COUNTS, 3, 4)


def one_entry_more(file: Patch) -> None:
    file.put("HH", file.end + E_COUNTS, 5, 5)


def one_entry_less(file: Patch) -> None:
    file.put("HH", file.end + E_COUNTS, 3, 3)


def absurd_count(file: Patch) -> None:
    file.put("HH", file.end + E_COUNTS, 65535, 65535)


def directory_elsewhere(file: Patch) -> None:
    file.put("L", file.end + E_START, file.start - 1)


def longer_directory(file: Patch) -> None:
    file.put("L", file.end + E_SIZE, file.size + 1)


def announced_comment(file: Patch) -> None:
    file.put("H", file.end + E_COMMENT, 5)


def long_name(file: Patch) -> None:
    file.put("H", file.central(3) + 28, 0xFFFF)


def not_utf8(file: Patch) -> None:
    file.bytes[file.central(2) + C_NAME] = 0xFF


def no_entry(file: Patch) -> None:
    file.bytes[file.central(2)] = 0


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (encrypted, UnsupportedCheckpointError, "zip entry 'archive/data/0' is encrypted"),
        (unknown_flag, CorruptFileError, "'archive/data/0' is said to be .* with the flags 0x2000"),
        (
            other_sizes,
            CorruptFileError,
            "'archive/data/0' is said to be stored as it is, but 24 bytes take 20",
        ),
        (larger_in_the_directory, CorruptFileError, "'archive/data/0' at byte .* contradict each other"),
        (
            larger_in_both,
            CorruptFileError,
            "'archive/version' at byte .* overlaps 'archive/data/0', which ends",
        ),
        (beyond_the_directory, CorruptFileError, "takes 9999 bytes, but the zip directory begins at byte"),
        (another_name, CorruptFileError, "'archive/data/0' at byte .* contradict each other"),
        (another_method, CorruptFileError, "'archive/data/0' at byte .* contradict each other"),
        (other_flags, CorruptFileError, "'archive/data/0' at byte .* contradict each other"),
        (same_place, CorruptFileError, "'archive/version' at byte .* overlaps 'archive/data/0'"),
        (
            no_header,
            CorruptFileError,
            r"zip entry 'archive/data/0' is not at byte \d+, as the directory says",
        ),
        (
            header_beyond,
            CorruptFileError,
            "'archive/data/0' at byte 4294967280 takes 30 bytes, but the file has",
        ),
        (wide_without_values, CorruptFileError, "a size or offset beyond 4 GB is announced and not there"),
        (on_another_disk, UnsupportedCheckpointError, "a zip file in several parts; join them first"),
        (several_disks, UnsupportedCheckpointError, "a zip file in several parts; join them first"),
        (fewer_on_this_disk, UnsupportedCheckpointError, "a zip file in several parts; join them first"),
        (one_entry_more, CorruptFileError, "no entry of the zip directory at byte"),
        (one_entry_less, CorruptFileError, r"the zip directory ends at byte \d+, not at"),
        (absurd_count, CorruptFileError, "the zip directory of 65535 entries and .* does not fit"),
        (directory_elsewhere, CorruptFileError, "the zip directory of 4 entries and .* does not fit"),
        (longer_directory, CorruptFileError, "the zip directory of 4 entries and .* does not fit"),
        (announced_comment, CorruptFileError, "announces a comment that is not there"),
        (long_name, CorruptFileError, r"an entry of the zip directory at byte \d+ passes its end"),
        (not_utf8, CorruptFileError, r"the name of the zip entry at byte \d+ is not UTF-8"),
        (no_entry, CorruptFileError, "no entry of the zip directory at byte"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_contradictions_are_named_with_their_place(
    tmp_path: Path, change: Callable[[Patch], None], kind: type[CheckpointError], message: str
):
    file = Patch(SOUND)
    change(file)
    (tmp_path / "x.pt").write_bytes(file.bytes)
    with pytest.raises(kind, match=message) as caught:
        read_torch_file(MappedFile(tmp_path / "x.pt"))
    assert str(caught.value).startswith(str(tmp_path / "x.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_entries(("a/data/0", bytes(24))), "zip entry 'a/data/0' stands there twice"),
        (
            with_entries(method=zipfile.ZIP_DEFLATED),
            "'a/data.pkl' is compressed, which torch.save never does",
        ),
        (with_entries(("a/../../x", b"")), "is named 'a/../../x', which is not a plain path"),
        (with_entries(("/a/x", b"")), "is named '/a/x', which is not a plain path"),
        (with_entries(("a//x", b"")), "is named 'a//x', which is not a plain path"),
        (with_entries(("a/./x", b"")), "is named 'a/./x', which is not a plain path"),
        (with_entries(("a/b\\..\\x", b"")), "which is not a plain path"),
        (with_entries(("a/x\n\x1b[2J", b"")), r"is named 'a/x\\n\\x1b\[2J', which is not a plain path"),
        (with_entries(("b/data.pkl", b"")), "that torch.save did not write: not one folder, but a, b"),
        (with_entries(("x", b"")), "that torch.save did not write: not one folder, but a, x"),
        (archive(), "that torch.save did not write: not one folder, but nothing"),
        (archive(("a/x", b"")), "a zip file without data.pkl: torch.save did not write it"),
        (with_entries(("a/byteorder", b"big")), "byteorder at byte .* is b'big'; only little-endian files"),
        (with_entries(comment=b"hello"), "the last bytes of a zip file are missing"),
        (SOUND + b"\0", "the last bytes of a zip file are missing"),
        (b"\0" + SOUND, "the zip directory of 4 entries .* does not fit"),
        (b"PK\3\4", "the last bytes of a zip file are missing"),
        (b"\x80\4]\x94.", r"begins with b'\\x80\\x04\]\\x94\.', as nothing that torch.save writes"),
        (b"PK\6\7" + archive(), "the zip directory of 0 entries .* does not fit"),
    ],
)
def test_other_zip_files_are_refused_with_the_reason(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(MappedFile(tmp_path / "x.pt"))


def wide_count(file: bytearray) -> None:
    struct.pack_into("<Q", file, len(file) - 98 + 32, 9)


def narrow_count(file: bytearray) -> None:
    struct.pack_into("<HH", file, len(file) - 22 + E_COUNTS, 1, 1)


def end_elsewhere(file: bytearray) -> None:
    struct.pack_into("<Q", file, len(file) - 42 + 8, len(file) - 99)


def end_beyond(file: bytearray) -> None:
    struct.pack_into("<Q", file, len(file) - 42 + 8, 1 << 62)


def long_end(file: bytearray) -> None:
    struct.pack_into("<Q", file, len(file) - 98 + 4, 45)


def parts(file: bytearray) -> None:
    struct.pack_into("<L", file, len(file) - 42 + 16, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wide_count, "the zip64 end record at byte .* contradicts the ordinary one"),
        (narrow_count, "the zip64 end record at byte .* contradicts the ordinary one"),
        (end_elsewhere, "no zip64 end record at byte"),
        (end_beyond, "the zip64 end record at byte 4611686018427387904 takes 56 bytes, but the file has"),
        (long_end, "no zip64 end record at byte"),
        (parts, "no zip64 end record at byte"),
    ],
)
def test_zip64_end_that_contradicts_is_refused(
    tmp_path: Path, change: Callable[[bytearray], None], message: str
):
    torch.save({"w": torch.ones(6)}, tmp_path / "x.pt")
    content = bytearray((tmp_path / "x.pt").read_bytes())
    assert content[-98:-94] == b"PK\6\6"
    change(content)
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CorruptFileError, match=message):
        read_torch_file(MappedFile(tmp_path / "x.pt"))


def test_checksum_goes_along_with_a_tensor_that_is_a_whole_entry(tmp_path: Path):
    matrix, run = torch.arange(12.0).reshape(3, 4), torch.arange(10)
    state = {"whole": matrix, "part": run[2:5], "start": run[:9], "transposed": matrix.T, "empty": run[:0]}
    torch.save(state, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as file:
        checksum = file.getinfo("x/data/0").CRC
    read = read_torch_file(MappedFile(tmp_path / "x.pt"))
    assert {tensor.name: tensor.crc32 for tensor in read} == dict.fromkeys(state) | {"whole": checksum}


def test_wrong_checksums_are_no_error(tmp_path: Path):
    file = Patch(SOUND)
    file.put("L", file.central(2) + C_CRC, 0)
    file.put("L", file.local(2) + L_CRC, 0)
    (tmp_path / "x.pt").write_bytes(file.bytes)
    assert [tensor.name for tensor in read_torch_file(MappedFile(tmp_path / "x.pt"))] == ["w"]
    assert torch.load(tmp_path / "x.pt", weights_only=True)["w"].shape == (2, 3)


def test_file_that_was_unpacked_and_packed_again_is_read(tmp_path: Path):
    """With its folders, in another order, without the byte order, and with an extra field."""
    buffer = io.BytesIO()
    first = ("a/notes", bytes(1000))
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in (first, ("a/", b""), ("a/data/", b""), ("a/data/0", bytes(range(24)))):
            file.writestr(zipfile.ZipInfo(name), content)
        padded = zipfile.ZipInfo("a/data.pkl")
        padded.extra = b"FB\x03\0ZZZ"
        file.writestr(padded, PICKLE)
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    (only,) = read_torch_file(MappedFile(tmp_path / "x.pt"))
    assert buffer.getvalue()[only.offset : only.offset + only.nbytes] == bytes(range(24))


def test_sizes_that_follow_the_data_are_read_from_the_directory(tmp_path: Path):
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

    buffer = Pipe()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(zipfile.ZipInfo("a/data.pkl"), PICKLE)
        file.writestr(zipfile.ZipInfo("a/data/0"), bytes(range(24)))
    content = buffer.getvalue()
    assert LOCAL.unpack_from(content)[7:9] == (0, 0)
    (tmp_path / "x.pt").write_bytes(content)
    (only,) = read_torch_file(MappedFile(tmp_path / "x.pt"))
    assert content[only.offset : only.offset + only.nbytes] == bytes(range(24))


def test_a_storage_may_end_with_bytes_of_half_an_element(tmp_path: Path):
    """As torch.save leaves it where a storage of bytes was seen as one of wider elements."""
    state = {"w": torch.zeros(27, dtype=torch.uint8)[:24].view(torch.float32)}
    torch.save(state, tmp_path / "x.pt")
    entry = read_entries(MappedFile(tmp_path / "x.pt"))["data/0"]
    assert entry.size == 27
    (only,) = read_torch_file(MappedFile(tmp_path / "x.pt"))
    assert (only.shape, only.offset, only.nbytes) == ((6,), entry.offset, 24)


def test_storage_keys_need_not_be_numbers(tmp_path: Path):
    content = zipped(pickled(text("w"), tensor(over=storage("blob/x"))), **{"data/blob/x": bytes(24)})
    (tmp_path / "x.pt").write_bytes(content)
    assert [tensor.name for tensor in read_torch_file(MappedFile(tmp_path / "x.pt"))] == ["w"]
