"""Uploads to a Hub that fails, beside others, and in a process that is killed: what a failure costs."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import huggingface_hub
import pytest

from hub.server import Hub, wait_for
from tune_hub._upload import upload
from tune_hub.client import Client, open_client
from tune_hub.errors import DamagedError, HubError, RefusedError, TransferError
from tune_hub.upload_groups import MAX_FILES_PER_COMMIT
from tune_hub.upload_plan import plan_upload
from uploads import MODEL, make, published, send


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make(tmp_path / "model", MODEL)


BUSY = [
    ("/whoami", "GET", {"status": 429, "headers": {"Retry-After": "1"}}),
    ("/repos/create", "POST", {"status": 503}),
    ("/preupload/", "POST", {"status": 500}),
    ("/objects/batch", "POST", {"status": 429, "headers": {"Retry-After": "0"}}),
    ("/_lfs/", "PUT", {"status": 500}),
    ("/_lfs/", "PUT", {"drop_after": 100_000}),
    ("/commit/", "POST", {"status": 503, "times": 2}),
    ("/commit/", "POST", {"status": 429, "headers": {"Retry-After": "1"}}),
    ("/commit/", "POST", {"hang_up": True}),
    ("/tree/", "GET", {"status": 500, "times": 2}),
]


@pytest.mark.parametrize(("match", "method", "how"), BUSY, ids=lambda value: str(value))
def test_a_hub_that_is_busy_is_asked_again_and_nothing_is_printed(
    hub: Hub, model: Path, capfd, match, method, how
):
    fault = hub.fail(match, method=method, **how)
    began = time.monotonic()
    send(model, "tiny")
    assert fault.met == how.get("times", 1)
    assert time.monotonic() - began >= float(how.get("headers", {}).get("Retry-After", 0))
    assert published(hub, "alice/tiny") == MODEL
    assert capfd.readouterr() == ("", "")


def test_a_hub_that_stays_out_of_order_is_an_error_without_a_token(hub: Hub, model: Path):
    hub.fail("/commit/", status=503, times=100)
    with pytest.raises(TransferError, match="out of order") as caught:
        send(model, "tiny")
    assert "run the same command again" in str(caught.value)
    assert "hf_alice" not in str(caught.value)
    assert caught.value.exit_status == 1
    hub.app.faults.clear()
    hub.clear_log()
    send(model, "tiny")
    assert hub.asked(method="PUT") == []


def test_a_commit_in_between_that_touches_other_files_is_built_upon(hub: Hub, model: Path):
    hub.add("acme/tiny", {})
    client = open_client("hf_alice")
    plan = plan_upload(model, "acme/tiny", client=client)
    hub.commit("acme/tiny", {"other.txt": b"theirs"})
    upload(plan, client=client)
    assert published(hub, "acme/tiny") == MODEL | {"other.txt": b"theirs"}
    assert [seen.status for seen in hub.asked("/commit/", "POST")] == [412, 200]


@pytest.mark.parametrize("before", [{}, {"config.json": b"old"}])
@pytest.mark.parametrize("after", [b"theirs", None])
def test_a_commit_in_between_that_touches_the_same_files_is_not_undone(hub: Hub, model: Path, before, after):
    if not before and after is None:
        return
    hub.add("acme/tiny", before)
    client = open_client("hf_alice")
    plan = plan_upload(model, "acme/tiny", client=client)
    hub.commit("acme/tiny", {"config.json": after})
    with pytest.raises(RefusedError, match=r"config\.json changed there during the upload"):
        upload(plan, client=client, force=True)
    assert published(hub, "acme/tiny") == ({"config.json": after} if after else {})


@pytest.fixture
def impatient_client(hub: Hub) -> Iterator[Client]:
    """A client that takes silence for a lost connection after half a second."""
    client = open_client("hf_alice")
    client.session.timeout = httpx2.Timeout(0.5)
    yield client
    huggingface_hub.close_session()


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub: Hub, model: Path, impatient_client: Client):
    hub.fail("/commit/", hold_after=1)
    upload(plan_upload(model, "tiny", client=impatient_client), client=impatient_client)
    assert published(hub, "alice/tiny") == MODEL
    assert len(hub.commits("alice/tiny")) == 2
    assert [seen.status for seen in hub.asked("/commit/", "POST")][1:] == [412]


def test_a_pull_request_whose_answer_was_lost_is_looked_for_by_the_user(
    hub: Hub, model: Path, impatient_client: Client
):
    hub.add("alice/tiny", {})
    hub.fail("/commit/", hold_after=1)
    plan = plan_upload(model, "tiny", client=impatient_client, create_pr=True)
    with pytest.raises(TransferError, match="broke while a pull request was opened") as caught:
        upload(plan, client=impatient_client)
    assert f"{hub.url}/alice/tiny/discussions" in str(caught.value)
    assert len(hub.asked("/commit/", "POST")) == 1


def test_what_the_hub_lists_is_compared_with_what_was_sent(hub: Hub, model: Path):
    fault = hub.fail("/revision/", hold_after=1)  # where the commit is looked at

    def damage() -> None:
        wait_for(lambda: fault.met == 1)
        files = hub.repo("alice/tiny").at("main").files
        assert isinstance(files, dict)
        files["model-1.safetensors"] = files["model-2.safetensors"]
        hub.release()

    thread = threading.Thread(target=damage)
    thread.start()
    with pytest.raises(DamagedError, match=r"model-1\.safetensors arrived as something else"):
        send(model, "tiny")
    thread.join()


def test_a_file_that_changes_on_the_disk_is_not_published(hub: Hub, model: Path):
    def write(done: int, total: int) -> None:
        (model / "config.json").write_text("changed")

    with pytest.raises(RefusedError, match=r"config\.json: was changed during the upload"):
        send(model, "tiny", progress=write)
    assert hub.asked("/commit/", "POST") == []


def test_weights_that_change_while_they_are_sent_are_not_published(hub: Hub, model: Path):
    weights = model / "model-1.safetensors"

    def write(done: int, total: int) -> None:
        weights.write_bytes(b"changed")

    with pytest.raises(HubError, match="was changed during the upload"):
        send(model, "tiny", progress=write)
    assert published(hub, "alice/tiny") == {}


SEND = """
import sys
from tune_hub._upload import upload
from tune_hub.upload_plan import plan_upload
print(upload(plan_upload(sys.argv[1], "tiny")).no_op)
"""


@pytest.fixture
def start(hub: Hub, tmp_path: Path) -> Callable[[Path], "subprocess.Popen[str]"]:
    """Upload in another process."""

    def start_(folder: Path) -> "subprocess.Popen[str]":
        env = hub.environment(tmp_path / "home", token="hf_alice")
        return subprocess.Popen(
            [sys.executable, "-c", SEND, str(folder)], env=env, text=True, stdout=subprocess.PIPE
        )

    return start_


KILLED_AT = {
    "making the repository": ("/repos/create", {}),
    "asking what is large": ("/preupload/", {}),
    "sending the second of three": ("/_lfs/[0-9a-f]+$", {"method": "PUT", "skip": 1, "hold_after": 100_000}),
    "making the commit": ("/commit/", {"status": 503}),
    "waiting for the commit": ("/commit/", {}),
    "looking at what arrived": ("/tree/", {"skip": 1}),
}


@pytest.mark.parametrize("moment", KILLED_AT)
def test_an_upload_that_was_killed_goes_on_and_sends_nothing_twice(hub: Hub, model: Path, start, moment: str):
    match, how = KILLED_AT[moment]
    fault = hub.fail(match, **{"hold_after": 1, **how})
    process = start(model)
    wait_for(lambda: fault.met == 1)
    if "sending" in moment:
        wait_for(lambda: sum(seen.done for seen in hub.asked("/_lfs/[0-9a-f]+$", "PUT")) == 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.release()
    if moment == "waiting for the commit":
        wait_for(lambda: len(hub.commits("alice/tiny")) == 2)
    again = start(model)
    out, _ = again.communicate(timeout=60)
    is_made = moment in ("waiting for the commit", "looking at what arrived")
    assert (again.returncode, out) == (0, f"{is_made}\n")
    assert published(hub, "alice/tiny") == MODEL
    whole = [seen.path for seen in hub.asked("/_lfs/[0-9a-f]+$", "PUT") if seen.status == 200]
    assert len(whole) == len(set(whole)) == 3
    assert len(hub.commits("alice/tiny")) == 2


def test_an_upload_that_was_killed_between_two_commits_goes_on_with_the_second(
    hub: Hub, tmp_path: Path, start
):
    files = {f"{number:03}.json": b"%d" % number for number in range(MAX_FILES_PER_COMMIT + 10)}
    folder = make(tmp_path / "many", files)
    fault = hub.fail("/commit/", skip=1, hold_after=1, status=503)
    process = start(folder)
    wait_for(lambda: fault.met == 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.clear_log()
    start(folder).communicate(timeout=60)
    assert published(hub, "alice/tiny") == files
    (commit,) = hub.asked("/commit/", "POST")
    assert commit.received < 5000
