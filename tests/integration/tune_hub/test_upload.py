"""Uploads over HTTP, with the real client: what is sent, and what is refused."""

import re
from pathlib import Path

import pytest

from hub.server import Hub
from tune_hub.errors import AccessError, HubError, OfflineError, RefusedError
from tune_hub.upload_groups import MAX_FILES_PER_COMMIT
from uploads import MODEL, changes, make, published, send


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make(tmp_path / "model", MODEL)


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
