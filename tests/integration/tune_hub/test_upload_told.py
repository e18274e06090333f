"""What an upload says when it fails, how soon, and what it counts."""

import hashlib
import os
import time
from pathlib import Path

import httpx2
import pytest

from hub.server import Hub
from tune_hub._upload import UploadResult, upload
from tune_hub.client import open_client
from tune_hub.errors import AccessError, TransferError
from tune_hub.upload_files import files_of, with_contents
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
