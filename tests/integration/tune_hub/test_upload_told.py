"""What an upload says when it fails, how soon, and what it counts."""

import hashlib
import os
import time
from pathlib import Path

import httpx2
import pytest

from hub.server import Hub
from support import RunTune
from tune_hub._upload import UploadResult, upload
from tune_hub.client import open_client
from tune_hub.errors import AccessError, RefusedError, TransferError
from tune_hub.upload_files import LocalFile, files_of, with_contents
from tune_hub.upload_groups import HUGE_BYTES, MAX_FILES_PER_COMMIT, by_size
from tune_hub.upload_plan import plan_upload
from tune_hub.upload_rights import store_told


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / f"model-{number}.safetensors").write_bytes(os.urandom(300_000 * number))
    (folder / "config.json").write_bytes(b"{}")
    return folder


def send(folder: Path, repository: str, *, token: str = "hf_alice", **how) -> UploadResult:
    client = open_client(token)
    return upload(plan_upload(folder, repository, client=client, **how), client=client)


def test_what_is_made_for_the_upload_is_counted(hub: Hub, model: Path):
    files = with_contents(files_of(model), {"README.md": b"---\nlicense: mit\n---\n" + b"x" * 500})
    client = open_client("hf_alice")
    plan = plan_upload(files, "tiny", client=client)
    assert upload(plan, client=client).bytes_sent == plan.total_bytes


def test_a_file_that_fails_ends_the_transfers_of_the_others(hub: Hub, model: Path):
    content = os.urandom(20_000_000)
    (model / "large.safetensors").write_bytes(content)
    large = hub.fail(hashlib.sha256(content).hexdigest(), method="PUT", bytes_per_second=2_000_000)
    hub.fail("/_lfs/", method="PUT", status=403, message="Request has expired", times=100)
    began = time.monotonic()
    with pytest.raises(TransferError, match="has expired"):
        send(model, "tiny")
    assert large.met == 1
    assert time.monotonic() - began < 5


def test_a_store_that_hangs_up_is_told_as_that(hub: Hub):
    error = httpx2.ReadError("gone", request=httpx2.Request("PUT", "https://store.test/a?X-Signature=s3cret"))
    client = open_client("hf_alice")
    with pytest.raises(TransferError, match=r"https://store\.test: the store") as caught, store_told(client):
        raise error
    assert "s3cret" not in str(caught.value)


def test_a_store_that_refuses_is_not_told_as_missing_rights(hub: Hub, model: Path):
    hub.fail("/_lfs/", method="PUT", status=403, message="Request has expired", times=100)
    with pytest.raises(TransferError, match=r"the store of the Hub's large files answered 403") as caught:
        send(model, "tiny")
    assert "token" not in str(caught.value)
    assert "/_lfs/" not in str(caught.value)


def test_rights_that_miss_on_ones_own_repository_name_no_other(hub: Hub, model: Path):
    hub.fail("/preupload/", method="POST", status=403)
    with pytest.raises(AccessError, match="role `write`") as caught:
        send(model, "alice/m3")
    assert "of your own" not in str(caught.value)


def test_who_is_no_member_is_told_by_the_plan_unless_it_is_proposed(hub: Hub, model: Path):
    hub.add("acme/tiny", {})
    client = open_client("hf_bob")
    for name in ("acme/tiny", "acme/new"):
        with pytest.raises(AccessError, match="not of acme"):
            plan_upload(model, name, client=client)
    assert plan_upload(model, "acme/tiny", client=client, create_pr=True).exists


def test_nothing_is_proposed_to_a_repository_that_does_not_exist(hub: Hub, model: Path):
    with pytest.raises(RefusedError, match="nothing to propose changes to"):
        plan_upload(model, "alice/new", client=open_client("hf_alice"), create_pr=True)


@pytest.mark.parametrize("status", [404, 405])
def test_a_hub_that_looks_at_no_card_takes_any(hub: Hub, model: Path, status: int):
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    hub.fail("/validate-yaml", status=status)
    assert "README.md" in send(model, "tiny").files


def test_a_dry_run_tells_a_card_that_the_hub_does_not_take_before_weights_are_read(
    hub: Hub, set_environment, tune_here: RunTune
):
    set_environment(HF_TOKEN="hf_alice")
    folder = Path("model")
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: my-own\n---\n")
    (folder / "model.safetensors").write_bytes(b"damaged")
    said = tune_here("upload", folder, "tiny", "--dry-run")
    assert said.code == 2
    assert "does not take its header" in said.err


def many(tmp_path: Path) -> Path:
    """A folder of more files than a commit takes."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(MAX_FILES_PER_COMMIT + 1):
        (folder / f"{number}.txt").write_bytes(str(number).encode())
    return folder


def test_an_error_after_a_pull_request_was_opened_names_it(hub: Hub, tmp_path: Path):
    hub.add("alice/tiny", {})
    hub.fail("/commit/", skip=1, status=400, times=100)
    with pytest.raises(TransferError, match=r"go on with --revision refs/pr/1"):
        send(many(tmp_path), "tiny", create_pr=True)


def test_an_interruption_after_a_pull_request_was_opened_names_it(hub: Hub, tmp_path: Path):
    hub.add("alice/tiny", {})
    client = open_client("hf_alice")
    plan = plan_upload(many(tmp_path), "tiny", client=client, create_pr=True)

    def interrupt(done: int, total: int) -> None:
        if len(hub.asked("/commit/", "POST")) == 1 and done < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        upload(plan, client=client, progress=interrupt)
    assert "--revision refs/pr/1 " in caught.value.__notes__[0]


def test_two_huge_files_go_at_a_time():
    small, huge = LocalFile("a", 5), [LocalFile(name, HUGE_BYTES) for name in "bcd"]
    assert by_size([small, *huge]) == [(huge, 2), ([small], 4)]


ASKS = [("/preupload/", "POST"), ("/objects/batch", "POST"), ("/_lfs/", "PUT"), ("/commit/", "POST")]


@pytest.mark.parametrize(("match", "method"), ASKS)
def test_a_wait_that_is_too_long_is_an_error_with_its_seconds(hub: Hub, model: Path, match, method):
    hub.fail(match, method=method, status=429, headers={"Retry-After": "3600"}, times=100)
    with pytest.raises(TransferError, match="asks us to wait 3600 s"):
        send(model, "tiny")


def test_a_wait_is_told_once(hub: Hub, model: Path):
    hub.fail("/preupload/", status=429, headers={"RateLimit": '"api";r=0;t=1', "Retry-After": "9999"})
    hub.fail("/commit/", status=503, headers={"Retry-After": "1"})
    told: list[str] = []
    client = open_client("hf_alice")
    upload(plan_upload(model, "tiny", client=client), client=client, notice=told.append)
    assert told == ["the Hub asks us to wait 1 s"]
