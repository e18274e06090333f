"""What is here already is not fetched: of the folder, of the shared cache, of another download."""

import os
from pathlib import Path

import huggingface_hub
import pytest

from downloads import begin_download, contents
from hub.server import Hub
from tune_hub import download, read_record
from tune_hub.client import hub_cache
from tune_hub.errors import HubError, OfflineError, RefusedError

MODEL = {"model.safetensors": os.urandom(300_000), "config.json": b"{}"}
NBYTES = sum(map(len, MODEL.values()))


@pytest.fixture
def small(hub: Hub) -> str:
    hub.add("acme/small", MODEL)
    return "acme/small"


@pytest.fixture
def cached(hub: Hub, small: str) -> Path:
    """A file of weights in the shared cache."""
    huggingface_hub.snapshot_download(small)
    hub.clear_log()
    (blob,) = [path for path in hub_cache().rglob("blobs/*") if path.stat().st_size == 300_000]
    return blob


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_two_downloads_at_once_fetch_each_file_once(hub: Hub, small: str, folder: Path, tmp_path: Path):
    hub.fail("_cdn", bytes_per_second=600_000)
    environment = hub.environment(tmp_path / "home")
    both = [begin_download(small, folder, environment) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(int(out) for out, _ in said) == [0, NBYTES]
    assert contents(folder) == MODEL
    assert sum(seen.sent for seen in hub.asked("_cdn|resolve.*json")) == NBYTES


def test_the_same_again_fetches_nothing(hub: Hub, small: str, folder: Path):
    download(small, folder)
    hub.clear_log()
    assert download(small, folder).fetched_bytes == 0
    assert hub.asked("/resolve/") == []


def test_a_file_that_was_touched_is_read_again_and_one_that_was_changed_is_refused(
    hub: Hub, small: str, folder: Path
):
    download(small, folder)
    weights = folder / "model.safetensors"
    os.utime(weights, (1, 1))
    hub.clear_log()
    assert download(small, folder).fetched_bytes == 0
    weights.write_bytes(bytes(300_000))
    with pytest.raises(RefusedError, match=r"model.safetensors\n"):
        download(small, folder)
    assert hub.asked("/resolve/") == []
    download(small, folder, force=True)
    assert contents(folder) == MODEL


def test_files_of_others_are_replaced_by_force_only(hub: Hub, small: str, folder: Path):
    folder.mkdir()
    (folder / "config.json").write_text("mine")
    (folder / "notes.txt").write_text("mine too")
    with pytest.raises(RefusedError, match=r"holds other files under these names: config.json"):
        download(small, folder)
    assert contents(folder) == {"config.json": b"mine", "notes.txt": b"mine too"}
    download(small, folder, force=True)
    assert contents(folder) == MODEL | {"notes.txt": b"mine too"}


def test_another_repository_or_commit_is_put_there_by_force_only(hub: Hub, small: str, folder: Path):
    first = download(small, folder).commit
    hub.add("acme/other", MODEL | {"config.json": b'{"other": 1}'})
    with pytest.raises(RefusedError, match="holds acme/small, and not acme/other"):
        download("acme/other", folder)
    second = hub.commit(small, {"config.json": b'{"new": 1}'})
    with pytest.raises(RefusedError, match=f"--revision {first}"):
        download(small, folder)
    assert contents(folder) == MODEL
    assert download(small, folder, revision=first).fetched_bytes == 0
    assert download(small, folder, force=True).fetched_bytes == len(b'{"new": 1}')
    record = read_record(folder)
    assert record and record.commit == second


def test_what_the_cache_holds_is_linked(hub: Hub, small: str, cached: Path, folder: Path):
    assert download(small, folder).fetched_bytes == 0
    assert hub.asked("/resolve/") == []
    assert contents(folder) == MODEL
    assert (folder / "model.safetensors").stat().st_ino == cached.stat().st_ino


def test_what_is_damaged_in_the_cache_is_fetched(hub: Hub, small: str, cached: Path, folder: Path):
    cached.write_bytes(bytes(300_000))
    assert download(small, folder).fetched_bytes == 300_000
    assert contents(folder) == MODEL
    assert cached.read_bytes() == bytes(300_000)


def test_offline_the_cache_is_asked_alone(
    hub: Hub, small: str, cached: Path, folder: Path, set_environment, tmp_path: Path
):
    set_environment(HF_HUB_OFFLINE="1")
    download(small, folder)
    assert contents(folder) == MODEL
    cached.write_bytes(bytes(300_000))
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE"):
        download(small, tmp_path / "again")
    for repository in ("acme/none", "acme/other"):
        with pytest.raises(OfflineError, match=r"does not hold it\n  unset HF_HUB_OFFLINE"):
            download(repository, tmp_path / "none")
    assert hub.requests == []


def test_offline_a_cache_without_weights_is_no_model(hub: Hub, small: str, folder: Path, set_environment):
    huggingface_hub.hf_hub_download(small, "config.json")
    set_environment(HF_HUB_OFFLINE="1")
    with pytest.raises(HubError, match="weights"):
        download(small, folder)
    assert not folder.exists()
