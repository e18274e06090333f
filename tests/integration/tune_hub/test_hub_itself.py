"""The Hub that other tests talk to stands up to the real client, and goes wrong in the ways it is told to."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hub.server import Hub, wait_for

WEIGHTS = os.urandom(300_000)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "deep/er/ü ñ#?%.txt": b"text", "empty": b""}


def downloaded(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def as_alice() -> HfApi:
    return HfApi(token="hf_alice")


def as_bob() -> HfApi:
    return HfApi(token="hf_bob")


def files_in(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(("part_bytes", "pieces"), [(None, 1), (100_000, 3), (70_000, 5)])
def test_uploaded_folder_comes_back_the_same(hub: Hub, tmp_path: Path, part_bytes: int | None, pieces: int):
    hub.app.part_bytes = part_bytes
    as_alice().create_repo("acme/new")
    as_alice().upload_folder(repo_id="acme/new", folder_path=files_in(tmp_path / "model"))
    got = downloaded(Path(snapshot_download("acme/new", local_dir=tmp_path / "got")))
    assert got.pop(".gitattributes")
    assert got == FILES
    taken = [seen.received for seen in hub.asked("^/_lfs/", "PUT")]
    assert (len(taken), sum(taken)) == (pieces, len(WEIGHTS))
    assert len(hub.repo("acme/new").commits) == 2


def test_nothing_is_taken_twice(hub: Hub):
    hub.add("acme/old", FILES)
    as_alice().create_repo("acme/new")
    as_alice().upload_file(repo_id="acme/new", path_or_fileobj=WEIGHTS, path_in_repo="copy.safetensors")
    assert hub.files("acme/new")["copy.safetensors"] == WEIGHTS
    assert not hub.asked("^/_lfs/", "PUT")


def test_listing_comes_in_pages(hub: Hub):
    hub.add("acme/many", {f"a b/{number}": b"" for number in range(25)})
    hub.app.page_size = 10
    assert len(list(HfApi().list_repo_tree("acme/many", recursive=True))) == 26
    assert len(hub.asked("/tree/")) == 3


def test_private_repository_is_shown_to_members_alone(hub: Hub):
    hub.add("acme/secret", FILES, private=True)
    for api, status in ((HfApi(token=False), 401), (as_bob(), 404)):
        with pytest.raises(RepositoryNotFoundError) as refused:
            api.model_info("acme/secret")
        assert refused.value.response.status_code == status
    assert as_alice().model_info("acme/secret").private


def test_gated_repository_is_read_by_whom_it_was_granted(hub: Hub):
    hub.add("meta-llama/gated", FILES, gated="manual")
    for token, status in ((False, 401), ("hf_bob", 403)):
        with pytest.raises(GatedRepoError) as refused:
            hf_hub_download("meta-llama/gated", "config.json", token=token)
        assert refused.value.response.status_code == status
    assert HfApi(token=False).model_info("meta-llama/gated").gated == "manual"
    hub.grant("meta-llama/gated", "bob")
    assert Path(hf_hub_download("meta-llama/gated", "config.json", token="hf_bob")).read_bytes() == b"{}"


@pytest.mark.parametrize(("token", "status"), [("hf_nobody", 401), ("hf_bob", 403), ("hf_alice_reads", 403)])
def test_only_members_may_write(hub: Hub, token: str, status: int):
    hub.add("acme/small", FILES)
    with pytest.raises(HfHubHTTPError) as refused:
        HfApi(token=token).upload_file(repo_id="acme/small", path_or_fileobj=b"1", path_in_repo="new.txt")
    assert refused.value.response.status_code == status
    assert "new.txt" not in hub.files("acme/small")


def test_wrong_token_is_refused_where_none_is_needed(hub: Hub):
    hub.add("acme/small", FILES)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi(token="hf_nobody").model_info("acme/small")
    assert HfApi(token=False).model_info("acme/small").id == "acme/small"


def test_anyone_may_propose(hub: Hub):
    hub.add("acme/small", FILES)
    made = as_bob().upload_file(
        repo_id="acme/small", path_or_fileobj=WEIGHTS[1:], path_in_repo="model.safetensors", create_pr=True
    )
    assert made.pr_num == 1
    assert hub.files("acme/small", "refs/pr/1")["model.safetensors"] == WEIGHTS[1:]
    assert hub.files("acme/small") == FILES


def test_branch_tag_and_commit_are_revisions(hub: Hub):
    first = hub.add("acme/small", {"a": b"1"})
    hub.tag("acme/small", "v1")
    as_alice().create_branch("acme/small", branch="new/est")
    second = hub.commit("acme/small", {"a": None, "b": b"2"}, branch="new/est")
    assert hub.files("acme/small", "new/est") == {"b": b"2"}
    wanted = {"v1": first, "main": first, first: first, "new/est": second, second: second, second[:7]: None}
    for revision, commit in wanted.items():
        if commit is None:
            with pytest.raises(RevisionNotFoundError):
                HfApi().model_info("acme/small", revision=revision)
        else:
            assert HfApi().model_info("acme/small", revision=revision).sha == commit
    assert Path(hf_hub_download("acme/small", "b", revision="new/est")).read_bytes() == b"2"
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("acme/small", "b", revision="v1")


def test_commit_on_an_old_state_is_refused(hub: Hub):
    old = hub.add("acme/small", FILES)
    hub.commit("acme/small", {"a": b"1"})
    addition = CommitOperationAdd("b", b"2")
    with pytest.raises(HfHubHTTPError) as refused:
        as_alice().create_commit("acme/small", [addition], commit_message="late", parent_commit=old)
    assert refused.value.response.status_code == 412


def test_card_is_judged_and_read(hub: Hub):
    card = "---\nlicense: {}\nbase_model: {}\n---\n# A model\n"
    hub.add("acme/small", {"README.md": card.format("mit", "acme/base")})
    info = HfApi().model_info("acme/small")
    assert info.card_data and info.card_data["license"] == "mit"
    assert {"license:mit", "base_model:acme/base"} <= set(info.tags or ())
    for license_name, base in (("[mit", "acme/base"), ("none-such", "acme/base"), ("mit", "a/b/c")):
        content = card.format(license_name, base)
        with pytest.raises(ValueError, match="metadata in README"):
            as_alice().upload_file(
                repo_id="acme/small", path_or_fileobj=content.encode(), path_in_repo="README.md"
            )
    with pytest.raises(ValueError, match="license"):
        ModelCard(card.format("none-such", "acme/base")).validate()


def test_token_stays_at_the_first_origin(hub: Hub):
    hub.add("acme/small", FILES)
    hf_hub_download("acme/small", "model.safetensors", token="hf_alice")
    there = [seen for seen in hub.requests if seen.on_cdn]
    assert there and all(seen.auth is None for seen in there)
    assert {seen.auth for seen in hub.requests if not seen.on_cdn} == {"Bearer hf_alice"}
    assert httpx2.get(f"{hub.cdn_url}{there[0].path}").status_code == 403


@pytest.mark.parametrize("name", ["../out", "/absolute", "a/../../b", "deep//er", "C:\\x", ".."])
def test_names_are_told_and_served_as_they_are(hub: Hub, name: str):
    hub.add("acme/evil", {name: b"content"})
    assert [sibling.rfilename for sibling in HfApi().model_info("acme/evil").siblings or ()] == [name]
    path = f"/acme/evil/resolve/main/{name}".replace("\\", "%5C").encode()
    request = httpx2.Request("GET", hub.url, extensions={"target": path})
    with httpx2.Client() as client:
        assert client.send(request).content == b"content"


def got(hub: Hub, name: str = "model.safetensors", **headers: str) -> httpx2.Response:
    return httpx2.get(f"{hub.url}/acme/small/resolve/main/{name}", headers=headers, follow_redirects=True)


def test_parts_of_a_file(hub: Hub):
    hub.add("acme/small", FILES)
    etag = got(hub).headers["etag"]
    assert got(hub, Range="bytes=5-").content == WEIGHTS[5:]
    assert got(hub, Range="bytes=5-9").content == WEIGHTS[5:10]
    assert got(hub, Range="bytes=-9").content == WEIGHTS[-9:]
    assert got(hub, Range="bytes=300000-").status_code == 416
    part = got(hub, Range="bytes=5-", **{"If-Range": etag})
    assert (part.status_code, part.headers["content-range"]) == (206, "bytes 5-299999/300000")
    assert got(hub, Range="bytes=5-", **{"If-Range": '"other"'}).content == WEIGHTS
    seen = hub.asked("/_cdn/")[1]
    assert (seen.range, seen.status, seen.sent, seen.done) == ("bytes=5-", 206, len(WEIGHTS) - 5, True)


def test_answers_go_wrong_on_purpose(hub: Hub):
    hub.add("acme/small", FILES)
    wait = hub.fail("/resolve/", status=429, headers={"Retry-After": "1"}, skip=1, times=2)
    answers = [got(hub) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 429, 429, 200]
    assert (answers[1].headers["retry-after"], wait.met) == ("1", 2)
    hub.fail("_cdn", corrupt=100)
    hub.fail("_cdn", truncate=100)
    hub.fail("_cdn", ignore_range=True)
    hub.fail("_cdn", redirect=f"{hub.url}/acme/small/resolve/main/config.json")
    damaged = got(hub, Range="bytes=90-").content
    assert [at for at in range(len(damaged)) if damaged[at] != WEIGHTS[90 + at]] == [10]
    assert got(hub).content == WEIGHTS[:100]
    assert got(hub, Range="bytes=90-").content == WEIGHTS
    assert got(hub).content == b"{}"


@pytest.mark.parametrize("after", [0, 1, 65_536, 299_999])
def test_connection_drops_where_it_should(hub: Hub, after: int):
    hub.add("acme/small", FILES)
    hub.fail("_cdn", drop_after=after)
    content = bytearray()
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        httpx2.stream(
            "GET", f"{hub.url}/acme/small/resolve/main/model.safetensors", follow_redirects=True
        ) as f,
    ):
        for piece in f.iter_raw():
            content += piece
    assert content == WEIGHTS[:after]
    assert (hub.requests[-1].sent, hub.requests[-1].done) == (after, False)


def test_connection_drops_in_an_upload(hub: Hub):
    weights = WEIGHTS * 10
    as_alice().create_repo("acme/new")
    hub.fail("_lfs", method="PUT", drop_after=100_000)
    as_alice().upload_file(repo_id="acme/new", path_or_fileobj=weights, path_in_repo="a.safetensors")
    first, second = hub.asked("_lfs", "PUT")
    assert (first.status, second.status) == (None, 200)
    assert 100_000 <= first.received < second.received == len(weights)
    assert hub.files("acme/new")["a.safetensors"] == weights


def test_server_hangs_up_without_a_word(hub: Hub):
    hub.add("acme/small", FILES)
    hub.fail("config.json", hang_up=True)
    with pytest.raises(httpx2.RemoteProtocolError):
        got(hub, "config.json")
    assert got(hub, "config.json").content == b"{}"


@pytest.mark.parametrize(
    ("fault", "least"), [({"delay": 0.2}, 0.2), ({"bytes_per_second": 1_000_000}, 0.25), ({}, 0.0)]
)
def test_answer_may_take_its_time(hub: Hub, fault: dict[str, float], least: float):
    hub.add("acme/small", FILES)
    hub.fail("_cdn", **fault)
    start = time.monotonic()
    assert got(hub).content == WEIGHTS
    assert time.monotonic() - start >= least


def test_answer_is_held_for_a_process_that_is_killed(hub: Hub, tmp_path: Path):
    hub.add("acme/small", FILES)
    hub.fail("_cdn", hold_after=1000)
    code = "from huggingface_hub import *; hf_hub_download('acme/small', 'model.safetensors')"
    with subprocess.Popen([sys.executable, "-c", code], env=hub.environment(tmp_path, "hf_bob")) as process:
        wait_for(lambda: any(seen.sent for seen in hub.asked("_cdn")))
        process.kill()
    assert (hub.requests[-1].sent, hub.requests[-1].done) == (1000, False)
    assert hub.asked("/resolve/")[0].auth == "Bearer hf_bob"


def test_environment_of_a_test_is_that_of_the_client(
    hub: Hub, set_environment: Callable[..., None], tmp_path: Path
):
    hub.add("acme/secret", FILES, private=True)
    (tmp_path / "token").write_text("hf_alice")
    set_environment(HF_HOME=str(tmp_path))
    assert Path(hf_hub_download("acme/secret", "config.json")).is_relative_to(tmp_path)
    set_environment(HF_HUB_OFFLINE="1")
    hub.clear_log()
    assert Path(hf_hub_download("acme/secret", "config.json")).read_bytes() == b"{}"
    assert not hub.requests
