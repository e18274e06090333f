"""Which files of a folder are published."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_hub.errors import HubError, RefusedError
from tune_hub.listing import RepoFile
from tune_hub.upload_files import LocalFile, all_files_of, check_unchanged, files_of, is_same, with_contents
from tune_hub.upload_groups import MAX_FILES_PER_COMMIT, MAX_SMALL_BYTES_PER_COMMIT, commits_of
from tune_hub.upload_plan import PlannedFile


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def names(files) -> list[str]:
    return [file.path for file in files]


MODEL = ("config.json", "model.safetensors", "original/params.json", "tokenizer.json")
STATE = (
    "checkpoint-500/model.safetensors",
    "checkpoints/step_00000100/__0_0.distcp",
    "optimizer.pt",
    "rng_state_0.pth",
    "scheduler.pt",
    "Optimizer.pt",
    "events.out.tfevents.1700000000.host.1.0",
    "mp_rank_00_model_states.pt",
    "optimizer_0/__0_0.bin",
    "random_states_0.pkl",
    "recipe_state.pt",
    "recipe_state/x.bin",
    "trainer_state.json",
    "training_args.bin",
    "wandb/run-1/files/wandb-metadata.json",
)


def test_a_model_goes_up_without_what_others_left_in_its_folder(tmp_path: Path):
    make(tmp_path, *MODEL, *STATE)
    make(
        tmp_path,
        ".git/HEAD",
        ".tune-download.json",
        ".cache/x",
        "__pycache__/a.pyc",
        "m.safetensors.part",
        "a~",
    )
    assert names(files_of(tmp_path)) == list(MODEL)


def test_what_a_training_goes_on_from_goes_up_if_it_is_asked_for(tmp_path: Path):
    make(tmp_path, *MODEL, *STATE)
    assert sorted(names(files_of(tmp_path, include_optimizer=True))) == sorted([*MODEL, *STATE])


def test_a_run_that_lies_in_the_folder_is_no_part_of_the_model(tmp_path: Path):
    make(tmp_path, *MODEL, "runs/r1/run.json", "runs/r1/log.jsonl", "runs/notes.md")
    assert names(files_of(tmp_path)) == [*MODEL[:3], "runs/notes.md", MODEL[3]]
    assert "runs/r1/log.jsonl" not in names(files_of(tmp_path, include_optimizer=True))


def test_a_configuration_of_a_scheduler_is_no_state(tmp_path: Path):
    make(tmp_path, "scheduler_config.json", "optimizer.md")
    assert names(files_of(tmp_path)) == ["optimizer.md", "scheduler_config.json"]


def test_a_checkpoint_goes_up_with_its_hidden_files(tmp_path: Path):
    make(tmp_path, ".metadata", "checkpoint.json", "__0_0.distcp")
    found = names(all_files_of(tmp_path, "checkpoints/step_1"))
    assert sorted(found) == [
        f"checkpoints/step_1/{name}" for name in (".metadata", "__0_0.distcp", "checkpoint.json")
    ]


def test_a_file_goes_up_under_its_name(tmp_path: Path):
    make(tmp_path, "model-q8_0.gguf")
    assert names(files_of(tmp_path / "model-q8_0.gguf")) == ["model-q8_0.gguf"]


def test_a_folder_without_a_file_is_refused(tmp_path: Path):
    make(tmp_path, ".hidden")
    with pytest.raises(RefusedError, match="no file in it to publish"):
        files_of(tmp_path)


def test_what_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(RefusedError, match="missing: not found"):
        files_of(tmp_path / "missing")


def test_a_link_into_the_hubs_cache_is_followed(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    make(tmp_path / "cache", "models--a--b/blobs/123")
    folder = make(tmp_path / "model", "config.json")
    (folder / "model.safetensors").symlink_to("../cache/models--a--b/blobs/123")
    (folder / "same.json").symlink_to("config.json")
    found = {file.path: file for file in files_of(folder)}
    assert sorted(found) == ["config.json", "model.safetensors", "same.json"]
    assert found["model.safetensors"].size == len("models--a--b/blobs/123")


def test_a_folder_that_is_a_link_itself_is_followed(tmp_path: Path):
    make(tmp_path / "real", "config.json")
    (tmp_path / "link").symlink_to("real")
    assert names(files_of(tmp_path / "link")) == ["config.json"]


@pytest.mark.parametrize("target", ["../private", "../elsewhere", "nothing"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, target: str):
    make(tmp_path, "private", "elsewhere/key")
    folder = make(tmp_path / "model", "config.json")
    (folder / "link").symlink_to(target)
    with pytest.raises(RefusedError, match=r"link: a link (out of the folder|to a folder|to nothing)"):
        files_of(folder)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(make(tmp_path, "config.json") / "pipe")
    with pytest.raises(RefusedError, match="pipe: neither a file nor a folder"):
        files_of(tmp_path)


@pytest.mark.parametrize("name", [b"new\nline", b"back\\slash", b"latin-\xe9"])
def test_a_name_that_no_repository_can_have_is_refused_in_words_that_can_be_printed(
    tmp_path: Path, name: bytes
):
    (tmp_path / os.fsdecode(name)).touch()
    with pytest.raises(RefusedError, match="rename the file") as caught:
        files_of(tmp_path)
    assert str(caught.value).encode().isascii()


def test_contents_replace_and_add_files_and_the_disk_stays_as_it_is(tmp_path: Path):
    files = files_of(make(tmp_path, "adapter_config.json", "adapter_model.safetensors"))
    changed = with_contents(files, {"adapter_config.json": b"{}", "README.md": b"card"})
    assert names(changed) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert [file.size for file in changed[:2]] == [4, 2]
    assert (tmp_path / "adapter_config.json").read_text() == "adapter_config.json"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@given(ours=st.binary(max_size=20), theirs=st.binary(max_size=20), is_large=st.booleans())
def test_files_are_the_same_if_their_contents_are(
    tmp_path_factory, ours: bytes, theirs: bytes, is_large: bool
):
    source = tmp_path_factory.mktemp("same") / "file"
    source.write_bytes(ours)
    sha256 = hashlib.sha256(theirs).hexdigest() if is_large else None
    remote = RepoFile("file", len(theirs), "pointer" if is_large else git_oid(theirs), sha256)
    for file in (*files_of(source), LocalFile("file", len(ours), content=ours)):
        assert is_same(file, remote) == (ours == theirs)
        assert is_same(file, RepoFile("file", len(ours), git_oid(ours)))


@pytest.mark.parametrize("change", ["write", "replace", "remove"])
def test_a_file_that_changes_is_noticed(tmp_path: Path, change: str):
    path = make(tmp_path, "model.safetensors") / "model.safetensors"
    files = files_of(tmp_path)
    check_unchanged(files)
    if change == "write":
        path.write_text("another")
    elif change == "replace":
        (tmp_path / "new").write_text("model.safetensors")
        (tmp_path / "new").rename(path)
    else:
        path.unlink()
    with pytest.raises(HubError, match=r"model\.safetensors: was changed during the upload"):
        check_unchanged(files)


@given(st.lists(st.integers(0, 20 << 20), max_size=600))
def test_commits_hold_every_file_once_and_stay_small(sizes: list[int]):
    todo = [PlannedFile(LocalFile(f"{number}", size), "new") for number, size in enumerate(sizes)]
    groups = commits_of(todo)
    paths = [planned.file.path for group in groups for planned in group]
    assert sorted(paths) == sorted(planned.file.path for planned in todo)
    for group in groups:
        assert 1 <= len(group) <= MAX_FILES_PER_COMMIT
        small = [planned.file.size for planned in group if planned.file.size < 10 << 20]
        assert sum(small) <= MAX_SMALL_BYTES_PER_COMMIT


def test_a_commit_carries_few_of_the_files_that_travel_in_it_and_any_number_of_others():
    small = [PlannedFile(LocalFile(f"{number}.json", 9 << 20), "new") for number in range(20)]
    assert [len(group) for group in commits_of(small)] == [7, 7, 6]
    large = [PlannedFile(LocalFile(f"{number}.safetensors", 5 << 30), "new") for number in range(20)]
    assert [len(group) for group in commits_of(large)] == [20]
