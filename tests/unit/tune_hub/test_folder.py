"""The folder that a download fills."""

import hashlib
from pathlib import Path

import pytest

from tune_hub.errors import DiskError, RefusedError
from tune_hub.folder import Record, is_whole, kept, partial_path, read_record, target_path, write_record
from tune_hub.listing import RepoFile

CONTENT = b"content"
GIT = RepoFile("x", 7, hashlib.sha1(b"blob 7\0content").hexdigest())
LFS = RepoFile("x", 7, "0" * 40, hashlib.sha256(CONTENT).hexdigest())


@pytest.mark.parametrize("file", [GIT, LFS], ids=["git", "lfs"])
def test_a_file_is_whole_if_its_content_is(tmp_path: Path, file: RepoFile):
    assert not is_whole(tmp_path, file, None)
    (tmp_path / "x").write_bytes(CONTENT)
    assert is_whole(tmp_path, file, None)
    (tmp_path / "x").write_bytes(b"CONTENT")
    assert not is_whole(tmp_path, file, None)
    (tmp_path / "x").write_bytes(CONTENT + b"!")
    assert not is_whole(tmp_path, file, None)


def test_a_record_comes_back_and_a_broken_one_is_none(tmp_path: Path):
    assert read_record(tmp_path) is None
    (tmp_path / "x").write_bytes(CONTENT)
    record = Record("acme/x", "0" * 40, {"x": kept(tmp_path / "x", LFS.checksum)})
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    (tmp_path / ".tune-download.json").write_bytes(b"{")
    assert read_record(tmp_path) is None


def test_what_has_begun_is_told_apart_by_name_and_by_content(tmp_path: Path):
    others = [GIT, LFS, RepoFile("y", 7, GIT.oid), RepoFile("a/x", 7, GIT.oid)]
    assert len({partial_path(tmp_path, file) for file in others}) == 4


def test_folders_are_made_and_links_and_files_in_the_way_are_told(tmp_path: Path):
    assert target_path(tmp_path, "a/b/x") == tmp_path / "a/b/x"
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(RefusedError, match="link: is a link"):
        target_path(tmp_path, "link/x")
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="file: is a file where a folder must be"):
        target_path(tmp_path, "file/x")
