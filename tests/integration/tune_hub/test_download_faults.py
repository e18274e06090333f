"""Downloads over a bad network, from a Hub out of order, and to a disk that is full: whole or not at all."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from downloads import begin_download, contents, partial_bytes
from hub.server import Hub, wait_for
from tune_hub import Events, download, download_plan, waiting
from tune_hub.client import SILENCE_TIMEOUT_S
from tune_hub.errors import DamagedError, DiskError, TransferError

SIZE = 3_000_000
WEIGHTS = os.urandom(SIZE)
MODEL = {"model.safetensors": WEIGHTS, "config.json": b'{"model_type": "llama"}'}


@pytest.fixture
def small(hub: Hub) -> str:
    hub.add("acme/small", MODEL)
    return "acme/small"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up without long waits."""
    monkeypatch.setattr(waiting, "FIRST_WAIT_S", 0.001)


def begins(hub: Hub) -> list[int]:
    """From which byte on the weights were asked for, each time."""
    return [int(seen.range[6:].rstrip("-")) if seen.range else 0 for seen in hub.asked("_cdn")]


def sent(hub: Hub) -> int:
    return sum(seen.sent for seen in hub.asked("_cdn"))


@pytest.mark.parametrize("at", [0, 1, 999_999, SIZE - 1])
def test_a_connection_that_drops_goes_on_at_the_byte(hub: Hub, small: str, folder: Path, at: int):
    hub.fail("_cdn", drop_after=at)
    result = download(small, folder)
    assert contents(folder) == MODEL
    assert begins(hub) == [0, at]
    assert sent(hub) == SIZE
    assert result.fetched_bytes == result.nbytes == SIZE + len(MODEL["config.json"])
    assert not (folder / ".tune-download").exists()


def test_a_connection_that_drops_again_and_again_ends_if_it_moves_on(hub: Hub, small: str, folder: Path):
    for _ in range(8):  # more than are borne without a byte between
        hub.fail("_cdn", drop_after=100_000)
    download(small, folder)
    assert contents(folder) == MODEL
    assert sent(hub) == SIZE


def test_an_answer_that_ends_early_goes_on(hub: Hub, small: str, folder: Path):
    hub.fail("_cdn", truncate=1_000_000)
    download(small, folder)
    assert contents(folder) == MODEL
    assert begins(hub) == [0, 1_000_000]


def test_after_a_kill_only_the_rest_is_sent(hub: Hub, small: str, folder: Path, tmp_path: Path):
    hub.fail("_cdn", hold_after=1_000_000)
    process = begin_download(small, folder, hub.environment(tmp_path / "home"))
    wait_for(lambda: partial_bytes(folder) >= 1_000_000)
    process.kill()
    process.communicate()
    assert not (folder / "model.safetensors").exists()
    hub.release()
    hub.clear_log()
    result = download(small, folder)
    assert contents(folder) == MODEL
    assert begins(hub) == [1_000_000]
    assert sent(hub) == SIZE - 1_000_000
    assert SIZE - 1_000_000 <= result.fetched_bytes <= SIZE - 1_000_000 + len(MODEL["config.json"])


def test_an_interrupted_download_ends_at_once_though_the_server_is_silent(
    hub: Hub, small: str, folder: Path, tmp_path: Path
):
    hub.fail("_cdn", hold_after=1_000_000)
    process = begin_download(small, folder, hub.environment(tmp_path / "home"))
    wait_for(lambda: partial_bytes(folder) >= 1_000_000)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - begun < SILENCE_TIMEOUT_S
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert partial_bytes(folder) >= 1_000_000  # config.json may be on its way, too
    assert not (folder / "model.safetensors").exists()


def test_a_file_that_fails_does_not_wait_for_one_that_is_silent(
    hub: Hub, small: str, folder: Path, impatient: None
):
    hub.fail("_cdn", hold_after=1_000_000)
    hub.fail("config.json", status=404)
    begun = time.monotonic()
    with pytest.raises(TransferError, match="404"):
        download(small, folder)
    assert time.monotonic() - begun < SILENCE_TIMEOUT_S


def test_another_file_under_the_name_is_not_gone_on_with(hub: Hub, small: str, folder: Path, impatient: None):
    hub.fail("_cdn", drop_after=1_000_000, times=1)
    hub.fail("_cdn", hang_up=True, times=100)
    with pytest.raises(TransferError, match=r"model.safetensors: broke off at byte 1,000,000 of 3,000,000"):
        download(small, folder)
    hub.app.faults.clear()
    other = os.urandom(SIZE)
    hub.commit(small, {"model.safetensors": other})
    hub.clear_log()
    download(small, folder)
    assert (folder / "model.safetensors").read_bytes() == other
    assert begins(hub) == [0]


def test_a_checksum_that_the_hub_no_longer_names_stops_it(
    hub: Hub, small: str, folder: Path, impatient: None
):
    hub.fail("resolve.*safetensors", headers={"X-Linked-Etag": f'"{"0" * 64}"'}, times=100)
    with pytest.raises(TransferError, match="the Hub names another checksum now than before"):
        download(small, folder)
    assert hub.asked("_cdn") == []
    assert "model.safetensors" not in contents(folder)


def test_a_flipped_byte_is_fetched_once_more(hub: Hub, small: str, folder: Path):
    hub.fail("_cdn", corrupt=1_234_567)
    hub.fail("config.json", corrupt=3)
    download(small, folder)
    assert contents(folder) == MODEL
    assert begins(hub) == [0, 0]


@pytest.mark.parametrize("name", MODEL)
def test_a_byte_that_is_always_flipped_is_an_error(hub: Hub, small: str, folder: Path, name: str):
    hub.fail("_cdn" if name == "model.safetensors" else name, corrupt=5, times=100)
    kind = "SHA-256" if name == "model.safetensors" else "git checksum"
    with pytest.raises(DamagedError, match=rf"{name}: what arrived has not the {kind} .* twice"):
        download(small, folder)
    assert name not in contents(folder)
    hub.app.faults.clear()
    download(small, folder)
    assert contents(folder) == MODEL


@pytest.mark.parametrize("length", [1_000_000, SIZE, SIZE + 5])
def test_a_beginning_that_was_damaged_on_the_disk_is_thrown_away(
    hub: Hub, small: str, folder: Path, tmp_path: Path, length: int
):
    hub.fail("_cdn", hold_after=1_000_000)
    process = begin_download(small, folder, hub.environment(tmp_path / "home"))
    wait_for(lambda: partial_bytes(folder) >= 1_000_000)
    process.kill()
    process.communicate()
    hub.release()
    (begun,) = [path for path in (folder / ".tune-download").iterdir() if path.stat().st_size > 1000]
    begun.write_bytes(bytes(length))
    seen = Progress()
    download(small, folder, events=seen)
    assert contents(folder) == MODEL
    assert seen.last == (seen.last[1], SIZE + len(MODEL["config.json"]))


class Progress(Events):
    """Remembers the last."""

    last = (0, 0)

    def progress(self, done: int, total: int) -> None:
        self.last = done, total


def test_a_server_without_ranges_sends_all_again(hub: Hub, small: str, folder: Path):
    hub.fail("_cdn", drop_after=1_000_000)
    hub.fail("_cdn", ignore_range=True)
    seen = Progress()
    download(small, folder, events=seen)
    assert contents(folder) == MODEL
    assert begins(hub) == [0, 1_000_000]
    assert sent(hub) == SIZE + 1_000_000
    assert seen.last[0] == seen.last[1] == SIZE + len(MODEL["config.json"])


@pytest.mark.parametrize("where", ["/api/models", "/tree/", "/resolve/", "_cdn"])
def test_a_server_that_asks_to_wait_is_waited_for(hub: Hub, small: str, folder: Path, where: str):
    hub.fail(where, status=429, headers={"Retry-After": "1"})
    begun = time.monotonic()
    download(small, folder)
    assert contents(folder) == MODEL
    assert time.monotonic() - begun >= 1.0


@pytest.mark.parametrize("where", ["/api/models", "/tree/", "/resolve/", "_cdn"])
@pytest.mark.parametrize("status", [500, 503])
def test_a_server_out_of_order_is_asked_again_and_given_up_in_the_end(
    hub: Hub, small: str, folder: Path, impatient: None, where: str, status: int
):
    hub.fail(where, status=status, times=3)
    download(small, folder)
    assert contents(folder) == MODEL
    shutil.rmtree(folder)
    hub.fail(where, status=status, times=1000)
    with pytest.raises(TransferError, match=str(status)):
        download(small, folder)
    assert contents(folder).keys() <= {"config.json"}


def test_a_server_that_falls_silent_is_asked_again(hub: Hub, small: str, folder: Path, set_environment):
    set_environment(HF_HUB_DOWNLOAD_TIMEOUT="1")
    hub.fail("_cdn", hold_after=1_000_000)
    hub.fail("config.json", delay=1.5)
    download(small, folder)
    assert contents(folder) == MODEL
    assert begins(hub) == [0, 1_000_000]


def test_a_slow_server_is_no_silent_one(hub: Hub, small: str, folder: Path, set_environment):
    set_environment(HF_HUB_DOWNLOAD_TIMEOUT="1")
    hub.fail("_cdn", bytes_per_second=SIZE * 2 // 3)
    download(small, folder)
    assert begins(hub) == [0]


def test_too_little_room_is_told_before_the_first_byte(hub: Hub, small: str, folder: Path, monkeypatch):
    room = shutil.disk_usage(folder.parent).free
    monkeypatch.setattr(download_plan, "ROOM_TO_SPARE_BYTES", room)
    with pytest.raises(DiskError, match=r"GB are to be fetched, .* GB are free"):
        download(small, folder)
    assert hub.asked("resolve") == []
    assert contents(folder) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of six megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_meanwhile_is_told_and_gone_on_with(hub: Hub, small: str, small_disk: Path):
    class Others(Events):
        def progress(self, done: int, total: int) -> None:
            if done > 500_000:
                with suppress(OSError):
                    (small_disk / "others").write_bytes(bytes(8 << 20))

    folder, others = small_disk / "out", small_disk / "others"
    with pytest.raises(DiskError, match=rf"{os.strerror(errno.ENOSPC)}.*\n  make room"):
        download(small, folder, events=Others())
    assert "model.safetensors" not in contents(folder)
    others.unlink()
    hub.clear_log()
    download(small, folder)
    assert contents(folder) == MODEL
    assert begins(hub)[0] > 500_000


def test_a_system_that_refuses_to_write_is_told(hub: Hub, small: str, folder: Path, tmp_path: Path):
    limited = (
        "import resource, sys; sys.dont_write_bytecode = True\n"
        "from tune_hub import download, HubError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "try: download(*sys.argv[1:])\n"
        "except HubError as error: sys.exit(str(error))\n"
    )
    command = [sys.executable, "-c", limited, small, str(folder)]
    environment = hub.environment(tmp_path / "home")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr.startswith(f"{folder}: cannot be written: File too large (model.safetensors)\n")
    assert done.stderr.count("\n") == 2
    assert contents(folder).keys() <= {"config.json"}
