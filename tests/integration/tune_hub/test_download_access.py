"""Which models may be downloaded, at which revision, and where the token goes."""

import os
import shutil
from pathlib import Path

import pytest

from downloads import contents
from hub.server import Hub
from tune_hub import ALIASES, download, plan_download, read_record
from tune_hub.client import open_client
from tune_hub.errors import AccessError, HubError, RefusedError, RepositoryNotFoundError

MODEL = {"model.safetensors": os.urandom(50_000), "config.json": b"{}"}
TOKEN = "hf_alice"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_short_name_and_a_repository_are_the_same_model(hub: Hub, folder: Path):
    commit = hub.add(ALIASES["llama2"], MODEL)
    result = download("llama2", folder)
    assert (result.repository, result.commit) == (ALIASES["llama2"], commit)
    assert download(ALIASES["llama2"], folder).fetched_bytes == 0
    record = read_record(folder)
    assert record and (record.repository, record.commit) == (ALIASES["llama2"], commit)


@pytest.mark.parametrize("token", [None, "hf_bob"])
def test_a_private_model_is_not_there_for_others(hub: Hub, folder: Path, token: str | None):
    hub.add("acme/secret", MODEL, private=True)
    with pytest.raises(RepositoryNotFoundError, match="acme/secret: no such repository"):
        download("acme/secret", folder, token=token)
    download("acme/secret", folder, token=TOKEN)
    assert contents(folder) == MODEL


def test_a_gated_model_is_given_to_whom_it_was_granted(hub: Hub, folder: Path):
    hub.add("acme/gated", MODEL, gated="manual")
    with pytest.raises(AccessError, match=r"(?s)acme/gated: .*open http.*/acme/gated.*`hf auth login`"):
        download("acme/gated", folder)
    with pytest.raises(AccessError, match=r"has not been granted .*\(403\)\n  open http"):
        download("acme/gated", folder, token="hf_bob")
    assert not folder.exists()
    hub.grant("acme/gated", "bob")
    download("acme/gated", folder, token="hf_bob")
    assert contents(folder) == MODEL


def test_a_token_that_is_wrong_is_told_and_not_shown(hub: Hub, folder: Path):
    hub.add("acme/small", MODEL, private=True)
    with pytest.raises(AccessError, match="the token that was given is not valid") as told:
        download("acme/small", folder, token="hf_wrong")
    assert "hf_wrong" not in repr(told.value)


def test_the_token_goes_to_the_hub_alone(hub: Hub, folder: Path):
    hub.add("acme/secret", MODEL, private=True)
    download("acme/secret", folder, token=TOKEN)
    to_cdn = [seen for seen in hub.requests if seen.on_cdn]
    assert to_cdn
    assert not any(TOKEN in value for seen in to_cdn for value in [*seen.headers.values(), seen.query])
    assert {seen.auth for seen in hub.asked("/resolve/") if not seen.on_cdn} == {f"Bearer {TOKEN}"}
    assert TOKEN not in repr(open_client(TOKEN))
    assert TOKEN not in (folder / ".tune-download.json").read_text()


def test_a_redirect_to_a_stranger_carries_no_token(hub: Hub, folder: Path):
    hub.add("acme/secret", MODEL, private=True)
    stranger = f"{hub.cdn_url.replace('127.0.0.1', 'localhost')}/stranger"
    hub.fail("resolve.*config.json", redirect=stranger, times=1)
    download("acme/secret", folder, token=TOKEN)
    (asked,) = hub.asked("^/stranger")
    assert asked.auth is None
    assert TOKEN not in str(asked.headers)


@pytest.mark.parametrize("target", ["http://[broken/", "ftp://127.0.0.1/x", "//", "http://127.0.0.1:99999/"])
def test_a_redirect_to_nowhere_is_told(hub: Hub, folder: Path, monkeypatch, target: str):
    monkeypatch.setattr("tune_hub.waiting.FIRST_WAIT_S", 0.001)
    hub.add("acme/small", MODEL)
    hub.fail("resolve.*config.json", redirect=target, times=100)
    with pytest.raises(HubError, match=r"config\.json"):
        download("acme/small", folder)


def test_the_hubs_own_words_come_without_the_token(hub: Hub, folder: Path, monkeypatch):
    monkeypatch.setattr("tune_hub.waiting.FIRST_WAIT_S", 0.001)
    hub.add("acme/small", MODEL)
    hub.fail("small", status=500, message=f"you sent {TOKEN}", times=100)
    with pytest.raises(HubError) as told:
        download("acme/small", folder, token=TOKEN)
    assert TOKEN not in f"{told.value}{told.value!r}{told.value.__cause__!r}"


def test_a_branch_a_tag_and_a_commit_can_be_had(hub: Hub, tmp_path: Path):
    first = hub.add("acme/small", MODEL)
    hub.tag("acme/small", "v1")
    hub.branch("acme/small", "feature/x")
    second = hub.commit("acme/small", {"config.json": b'{"new": 1}'}, branch="feature/x")
    third = hub.commit("acme/small", {"config.json": b'{"new": 2}'})
    for revision, commit in [(None, third), ("v1", first), ("feature/x", second), (first, first)]:
        result = download("acme/small", tmp_path / commit, revision=revision)
        assert result.commit == commit
        assert contents(tmp_path / commit) == hub.files("acme/small", commit)
        shutil.rmtree(tmp_path / commit)
    with pytest.raises(RepositoryNotFoundError, match="has no branch, tag or commit 'v2'"):
        download("acme/small", tmp_path / "out", revision="v2")


def test_a_listing_in_pages_is_read_to_its_end(hub: Hub, folder: Path):
    hub.app.page_size = 2
    files = {f"part{number}.json": b"%d" % number for number in range(7)}
    hub.add("acme/small", files)
    download("acme/small", folder, include=["*"])
    assert contents(folder) == files


def test_many_small_files_come_all(hub: Hub, folder: Path):
    files = {f"{number}.json": b"%d" % number * number for number in range(200)}  # the first is empty
    hub.add("acme/many", files)
    result = download("acme/many", folder, include=["*"])
    assert contents(folder) == files
    assert result.fetched_bytes == sum(map(len, files.values()))
    assert len(hub.asked("/resolve/")) == 199  # an empty file is known without asking


def test_names_in_all_scripts_and_deep_folders_are_kept(hub: Hub, folder: Path):
    names = [
        "模型/größe 100%.json",
        "a?b#c&d=e.json",
        "/".join("abcdefghij") + "/x.json",
        "%2e%2e/x",
        "🙂.json",
    ]
    files = {name: name.encode() for name in names}
    hub.add("acme/names", files)
    download("acme/names", folder, include=["*"])
    assert contents(folder) == files


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/abs", "a/../../b", "C:\\x", "C:x", "a\\b", "a\0b", "a\nb", "a//b", "./a", "a/."),
        *(".tune-download/x", ".tune-download.json", ".Tune-Download/x", "x" * 256),
    ],
)
def test_a_name_that_leads_out_is_refused_before_anything_is_written(hub: Hub, folder: Path, name: str):
    hub.add("acme/evil", {**MODEL, name: b"evil"})
    with pytest.raises(RefusedError, match="acme/evil: has a file named"):
        download("acme/evil", folder, include=["*"])
    assert list(folder.parent.iterdir()) == []
    assert hub.asked("/resolve/") == []


@pytest.mark.parametrize(
    "names", [("A.json", "a.json"), ("e\u0301.json", "\u00e9.json"), ("straße.json", "STRASSE.json")]
)
def test_names_that_a_disk_takes_for_one_are_refused(hub: Hub, folder: Path, names: tuple[str, str]):
    hub.add("acme/twins", MODEL | dict.fromkeys(names, b"{}"))
    with pytest.raises(RefusedError, match="not every disk tells apart"):
        download("acme/twins", folder)
    download("acme/twins", folder, exclude=[names[0]])


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_a_link_to_elsewhere_is_not_written_through(hub: Hub, folder: Path, force: bool):
    hub.add("acme/small", {**MODEL, "sub/x.json": b"{}"})
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    folder.mkdir()
    (folder / "sub").symlink_to(elsewhere)
    with pytest.raises(RefusedError, match=r"sub: is a link, and what is downloaded must stay"):
        download("acme/small", folder, include=["*"], force=force)
    assert list(elsewhere.iterdir()) == []


def test_a_plan_writes_nothing(hub: Hub, folder: Path):
    hub.add("acme/small", MODEL)
    plan = plan_download("acme/small", folder)
    assert {each.file.path: each.state for each in plan.files} == dict.fromkeys(MODEL, "missing")
    assert plan.missing_bytes == plan.nbytes == sum(map(len, MODEL.values()))
    assert not folder.exists()
