"""Files are whole or absent."""

import json
import os
from pathlib import Path

import pytest

from tune_recipes.errors import UserError
from tune_recipes.files import read_text, remove_folder, write_atomic, write_json


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written_whole(tmp_path):
    write_atomic(tmp_path / "a", "é\n")
    write_atomic(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert names_in(tmp_path) == ["a"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert names_in(tmp_path) == ["a"]


def test_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "a", "\ud800")
    assert (tmp_path / "a").read_text() == "old"
    assert names_in(tmp_path) == ["a"]


def test_a_folder_that_is_in_the_way_stays(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        write_atomic(tmp_path / "a", "new")
    assert names_in(tmp_path) == ["a"]


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "real").read_text() == "old"
    assert (tmp_path / "link").read_text() == "new"


def test_json_is_indented_and_a_number_that_it_has_not_becomes_null(tmp_path):
    write_json(tmp_path / "a.json", {"loss": float("nan"), "limit": float("inf"), "name": "é"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "loss": null,\n  "limit": null,\n  "name": "é"\n}\n'
    assert json.loads(text)["loss"] is None


def test_a_folder_is_removed_with_all_in_it(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    remove_folder(tmp_path / "a")
    assert names_in(tmp_path) == []


def test_what_cannot_be_read_is_told(tmp_path):
    (tmp_path / "a").write_bytes(b"one\ntwo \xff")
    for path, says in (
        (tmp_path / "a", "a:2: not UTF-8 text; save the file as UTF-8"),
        (tmp_path / "none", "none: cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(UserError, match=says):
            read_text(path)
    with pytest.raises(UserError, match=r"^label:2: "):
        read_text(Path(tmp_path / "a"), "label")
