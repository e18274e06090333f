"""Downloads to a folder that holds another commit or another repository: one model, or no change."""

from pathlib import Path

import pytest

from hub.server import Hub
from support import RunTune
from tune_hub import download, plan_download, read_record
from tune_hub.errors import DiskError, HubError, RefusedError

OLD = {"config.json": b"{}", "model.safetensors": b"old", "gone.json": b"{}"}
SHARD = "model-00001-of-00001.safetensors"
NEW = {SHARD: b"new", "model.safetensors.index.json": b"{}"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def folder(hub: Hub, tmp_path: Path) -> Path:
    """A folder that holds a commit which the repository has left behind."""
    hub.add("acme/small", OLD)
    download("acme/small", tmp_path / "out")
    hub.commit("acme/small", {**NEW, "model.safetensors": None, "gone.json": None})
    return tmp_path / "out"


def test_another_commit_is_refused_even_where_no_name_collides(folder: Path):
    with pytest.raises(RefusedError, match="update it with --force"):
        download("acme/small", folder)
    assert contents(folder) == OLD
    assert plan_download("acme/small", folder).stale == ("gone.json", "model.safetensors")


def test_a_dry_run_names_what_an_update_would_remove(folder: Path, tune_here: RunTune):
    done = tune_here("download", "acme/small", "--output-dir", folder, "--dry-run")
    assert done.code == 0, done.err
    assert "  would remove gone.json, with --force" in done.out.splitlines()


def test_an_update_leaves_nothing_of_the_old_commit(folder: Path):
    result = download("acme/small", folder, force=True)
    assert contents(folder) == {"config.json": b"{}", **NEW}
    record = read_record(folder)
    assert record and record.commit == result.commit
    assert set(record.files) == {"config.json", *NEW}


def test_what_somebody_changed_is_not_removed(folder: Path):
    (folder / "gone.json").write_bytes(b"mine, and longer")
    download("acme/small", folder, force=True)
    assert (folder / "gone.json").read_bytes() == b"mine, and longer"


def test_another_repository_leaves_nothing_of_the_first(hub: Hub, folder: Path):
    hub.add("acme/other", {"config.json": b"{}", SHARD: b"other"})
    with pytest.raises(RefusedError, match="holds acme/small, and not acme/other"):
        download("acme/other", folder)
    download("acme/other", folder, force=True)
    assert contents(folder) == {"config.json": b"{}", SHARD: b"other"}


def test_a_part_of_another_commit_is_refused(hub: Hub, folder: Path):
    hub.commit("acme/small", {"NOTICE": b"new"})
    before = read_record(folder)
    with pytest.raises(RefusedError, match="holds commit"):
        download("acme/small", folder, include=["NOTICE"])
    assert read_record(folder) == before


def test_a_folder_that_is_not_whole_names_no_commit(hub: Hub, folder: Path):
    hub.fail(SHARD, delay=0.3, status=404)  # the index comes first
    with pytest.raises(HubError):
        download("acme/small", folder, force=True)
    record = read_record(folder)
    assert record and not record.commit


def test_what_has_begun_survives_a_download_of_another_part(hub: Hub, tmp_path: Path):
    weights = bytes(300_000)
    hub.add("acme/big", {"model.safetensors": weights, "README.md": b"# Big"})
    hub.fail("_cdn", drop_after=100_000)
    hub.fail("/resolve/.*/model", skip=1, status=404)
    with pytest.raises(HubError):
        download("acme/big", tmp_path / "big")
    hub.app.faults.clear()
    download("acme/big", tmp_path / "big", include=["README.md"])
    hub.clear_log()
    download("acme/big", tmp_path / "big")
    assert [seen.range for seen in hub.asked("_cdn")] == ["bytes=100000-"]


@pytest.mark.parametrize("name", ["model.safetensors/x", "x"])
def test_an_obstacle_is_told_before_the_first_byte(hub: Hub, tmp_path: Path, name: str):
    hub.add("acme/small", {"model.safetensors": b"weights", "x/y.json": b"{}"})
    folder = tmp_path / "out"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(b"mine")
    with pytest.raises(DiskError, match="move it away"):
        download("acme/small", folder, include=["*"])
    assert not hub.asked("/resolve/")
