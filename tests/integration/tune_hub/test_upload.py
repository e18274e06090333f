"""Uploads over HTTP, with the real client: what is sent, what is refused, and what a failure costs."""

import os
import re
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
from tune_hub._upload import UploadResult, upload
from tune_hub.client import Client, open_client
from tune_hub.errors import AccessError, DamagedError, HubError, OfflineError, RefusedError, TransferError
from tune_hub.upload_groups import MAX_FILES_PER_COMMIT
from tune_hub.upload_plan import plan_upload

WEIGHTS = [os.urandom(300_000) for _ in range(3)]
SHARDS = {f"model-{number}.safetensors": content for number, content in enumerate(WEIGHTS, 1)}
SMALL = {"config.json": b"{}", "README.md": b"---\nlicense: mit\n---\n# Tiny\n"}
MODEL = SMALL | SHARDS


def make(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make(tmp_path / "model", MODEL)


def published(hub: Hub, repository: str, revision: str = "main") -> dict[str, bytes]:
    """What a repository holds, without what the Hub itself puts there."""
    files = hub.files(repository, revision)
    files.pop(".gitattributes", None)
    return files


def send(
    folder: Path, repository: str, *, token: str = "hf_alice", force: bool = False, **how
) -> UploadResult:
    client = open_client(token)
    message = how.pop("message", None)
    progress = how.pop("progress", None)
    plan = plan_upload(folder, repository, client=client, **how)
    return upload(plan, client=client, force=force, message=message, progress=progress)


def changes(hub: Hub) -> list[str]:
    """The requests that change something, or send content."""
    asked = [seen for seen in hub.requests if seen.method in ("PUT", "POST", "DELETE")]
    return [f"{seen.method} {seen.path}" for seen in asked if not seen.path.endswith("/paths-info/main")]


def test_a_new_repository_gets_all_files_in_one_commit(hub: Hub, model: Path):
    seen: list[tuple[int, int]] = []
    result = send(model, "acme/tiny", progress=lambda done, total: seen.append((done, total)))
    assert published(hub, "acme/tiny") == MODEL
    assert [commit.title for commit in hub.commits("acme/tiny")] == [
        "Upload tiny with tune",
        "initial commit",
    ]
    total = sum(map(len, MODEL.values()))
    assert (result.url, result.commit) == (f"{hub.url}/acme/tiny", hub.commits("acme/tiny")[0].sha)
    assert (result.bytes_sent, result.no_op) == (total, False)
    assert sorted(result.files) == sorted(MODEL)
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


def test_a_name_alone_is_a_repository_of_the_tokens_own(hub: Hub, model: Path):
    assert send(model, "tiny").repository == "alice/tiny"
    assert hub.has("alice/tiny")


def test_a_private_repository_is_made_private(hub: Hub, model: Path):
    send(model, "tiny", private=True)
    assert hub.repo("alice/tiny").private


def test_a_public_repository_is_not_published_to_by_who_asked_for_a_private_one(hub: Hub, model: Path):
    hub.add("alice/tiny", {})
    with pytest.raises(RefusedError, match="alice/tiny is public") as caught:
        send(model, "tiny", private=True)
    assert "/alice/tiny/settings" in str(caught.value)
    assert changes(hub) == []


def test_a_single_file_goes_up_under_its_name(hub: Hub, model: Path):
    send(model / "config.json", "tiny", message="Add a file")
    assert published(hub, "alice/tiny") == {"config.json": b"{}"}
    assert hub.commits("alice/tiny")[0].title == "Add a file"


def test_overwriting_is_refused_with_a_list_and_done_if_forced(hub: Hub, model: Path):
    theirs = {"config.json": b"theirs", "model-1.safetensors": b"theirs", "other.txt": b"kept"}
    hub.add("acme/tiny", theirs)
    with pytest.raises(RefusedError, match="would overwrite 2 of its files") as caught:
        send(model, "acme/tiny")
    assert "\n  config.json\n  model-1.safetensors\n" in str(caught.value)
    assert changes(hub) == []
    assert published(hub, "acme/tiny") == theirs
    send(model, "acme/tiny", force=True)
    assert published(hub, "acme/tiny") == {**theirs, **MODEL}


def test_an_identical_upload_sends_and_commits_nothing(hub: Hub, model: Path):
    first = send(model, "tiny")
    hub.clear_log()
    again = send(model, "tiny")
    assert changes(hub) == []
    assert (again.no_op, again.commit, again.files, again.bytes_sent) == (True, first.commit, (), 0)


def test_only_what_differs_is_sent(hub: Hub, model: Path):
    send(model, "tiny")
    (model / "config.json").write_bytes(b"{ }")
    hub.clear_log()
    result = send(model, "tiny", force=True)
    assert (result.files, result.bytes_sent) == (("config.json",), 3)
    assert hub.asked(method="PUT") == []


def test_large_files_go_up_in_parts(hub: Hub, model: Path):
    hub.app.part_bytes = 100_000
    send(model, "tiny")
    assert published(hub, "alice/tiny") == MODEL
    assert len(hub.asked("/part/", "PUT")) == 9


def test_names_in_any_script_deep_folders_and_empty_files_arrive(hub: Hub, tmp_path: Path):
    files = {
        "a/b/c/d/e/f/deep.json": b"1",
        "leer/ü ñ#?%&+.txt": b"2",
        "模型/重み.safetensors": b"3" * 100,
        "empty.txt": b"",
        "empty.safetensors": b"",
    }
    send(make(tmp_path / "model", files), "tiny")
    assert published(hub, "alice/tiny") == files
    assert send(tmp_path / "model", "tiny").no_op


def test_the_token_goes_to_the_hub_alone(hub: Hub, model: Path):
    send(model, "tiny")
    elsewhere = [seen for seen in hub.requests if seen.host == hub.cdn_url.removeprefix("http://")]
    assert len(elsewhere) == 3
    assert all(seen.auth is None and "hf_alice" not in str(seen) for seen in elsewhere)


def test_many_small_files_go_up_in_few_requests(hub: Hub, tmp_path: Path):
    files = {f"part/{number:03}.json": b"%d" % number for number in range(200)}
    send(make(tmp_path / "model", files), "tiny")
    assert published(hub, "alice/tiny") == files
    assert len(hub.commits("alice/tiny")) == 2
    assert len(hub.requests) < 15


def test_more_files_than_a_commit_takes_go_up_in_several(hub: Hub, tmp_path: Path):
    files = {f"{number:03}.json": b"%d" % number for number in range(MAX_FILES_PER_COMMIT + 10)}
    send(make(tmp_path / "model", files), "tiny")
    assert published(hub, "alice/tiny") == files
    titles = [commit.title for commit in hub.commits("alice/tiny")]
    assert titles == ["Upload tiny with tune (2 of 2)", "Upload tiny with tune (1 of 2)", "initial commit"]


def test_a_pull_request_leaves_the_branch_as_it_is(hub: Hub, model: Path):
    theirs = {"config.json": b"theirs"}
    hub.add("acme/tiny", theirs)
    result = send(model, "acme/tiny", token="hf_bob", create_pr=True)
    assert result.url == f"{hub.url}/acme/tiny/discussions/1"
    assert published(hub, "acme/tiny") == theirs
    assert published(hub, "acme/tiny", "refs/pr/1") == MODEL


def test_a_pull_request_of_many_files_is_one(hub: Hub, tmp_path: Path):
    hub.add("acme/tiny", {})
    files = {f"{number:03}.json": b"%d" % number for number in range(MAX_FILES_PER_COMMIT + 10)}
    send(make(tmp_path / "model", files), "acme/tiny", create_pr=True)
    assert published(hub, "acme/tiny", "refs/pr/1") == files
    assert "refs/pr/2" not in hub.repo("acme/tiny").branches


def test_a_pull_request_that_is_there_can_be_added_to(hub: Hub, model: Path):
    hub.add("alice/tiny", {})
    send(model / "config.json", "tiny", create_pr=True)
    send(model, "tiny", revision="refs/pr/1")
    assert published(hub, "alice/tiny", "refs/pr/1") == MODEL
    assert published(hub, "alice/tiny") == {}
    assert send(model, "tiny", revision="refs/pr/1").url == f"{hub.url}/alice/tiny/discussions/1"


def test_a_pull_request_that_is_not_there_cannot_be_added_to(hub: Hub, model: Path):
    hub.add("alice/tiny", {})
    for repository in ("tiny", "new"):
        with pytest.raises(HubError, match=r"refs/pr/7"):
            send(model, repository, revision="refs/pr/7")
    assert changes(hub) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_a_branch_is_written_to_and_made_if_it_is_missing(hub: Hub, model: Path, is_there: bool):
    hub.add("acme/tiny", {"old.txt": b"old"})
    if is_there:
        hub.branch("acme/tiny", "dev")
    result = send(model, "acme/tiny", revision="dev")
    assert result.url == f"{hub.url}/acme/tiny/tree/dev"
    assert published(hub, "acme/tiny", "dev") == MODEL | {"old.txt": b"old"}
    assert published(hub, "acme/tiny") == {"old.txt": b"old"}
    assert send(model, "acme/tiny", revision="dev").no_op


def test_a_branch_of_a_new_repository_is_made(hub: Hub, model: Path):
    send(model, "tiny", revision="dev")
    assert published(hub, "alice/tiny", "dev") == MODEL
    assert published(hub, "alice/tiny") == {}


def test_a_tag_and_a_commit_stay_as_they_are(hub: Hub, model: Path):
    commit = hub.add("acme/tiny", {})
    hub.tag("acme/tiny", "v1")
    for revision in ("v1", commit):
        with pytest.raises(RefusedError, match="stays as it is"):
            send(model, "acme/tiny", revision=revision)
    assert changes(hub) == []


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (None, "no token: only who is logged in can upload"),
        ("hf_wrong", "is not valid"),
        ("hf_sécret", "has a sign in it that none has"),
        ("hf_alice_reads", "may only read"),
    ],
)
def test_a_token_that_will_not_do_is_told_before_anything_is_sent(hub: Hub, model: Path, token, told):
    with pytest.raises(AccessError, match=told) as caught:
        send(model, "alice/tiny", token=token)
    assert re.search("settings/tokens|copy it again", str(caught.value))
    assert changes(hub) == []
    assert token is None or token not in str(caught.value)


@pytest.mark.parametrize("is_there", [True, False])
def test_who_is_no_member_is_told_what_it_takes(hub: Hub, model: Path, is_there: bool):
    if is_there:
        hub.add("acme/tiny", {})
    with pytest.raises(AccessError, match=r"acme/tiny: .* may not") as caught:
        send(model, "acme/tiny", token="hf_bob")
    assert "role `write`" in str(caught.value)
    assert "member of acme" in str(caught.value)
    assert "bob/tiny" in str(caught.value)
    assert hub.asked(method="PUT") == []


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "a--b", ".git"])
def test_what_can_be_no_name_is_refused(hub: Hub, model: Path, name: str):
    with pytest.raises(RefusedError, match="not the name of a repository"):
        send(model, name)
    assert changes(hub) == []


def test_offline_nothing_is_tried(hub: Hub, model: Path, set_environment):
    set_environment(HF_HUB_OFFLINE="1")
    with pytest.raises(OfflineError):
        send(model, "tiny")
    assert hub.requests == []


def test_a_card_that_the_hub_does_not_take_is_told_before_the_weights_are_sent(hub: Hub, model: Path):
    (model / "README.md").write_text("---\nlicense: my-own\n---\n")
    with pytest.raises(RefusedError, match=r"README\.md: the Hub does not take its header: .*license"):
        send(model, "tiny")
    assert hub.asked(method="PUT") == []
    assert not hub.has("alice/tiny")


def test_a_card_in_no_unicode_is_told(hub: Hub, model: Path):
    (model / "README.md").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(RefusedError, match=r"README\.md: not UTF-8"):
        send(model, "tiny")


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
