"""A checkpoint is whole or absent, holds the state of its moment, and goes on bit for bit."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tune_recipes.errors import TrainingFailed, UserError
from tune_recipes.schema import Optim
from tune_recipes.train.checkpoint import MARKER, TrainState, list_checkpoints, load_latest
from tune_recipes.train.optim import build_optimizer
from tune_recipes.train.saving import Saver
from tune_recipes.train.step import train_step


@pytest.fixture
def cfg(make_config):
    return make_config(batch_size=2, optim=Optim(lr=0.01))


@pytest.fixture
def make_state(make_model, make_loader, cfg, world):
    def make(optim=cfg.optim):
        model = make_model(world.device)
        return TrainState(model, build_optimizer(model, optim), make_loader(cfg))

    return make


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def saver(folder, world):
    return Saver(folder, world, keep_last=2)


@pytest.fixture
def trained(make_state, cfg, world, saver):
    """Take four steps and save after each; return the state, and the weights after each step."""
    state, weights = make_state(), [make_state().model.state_dict()]
    for _ in range(4):
        train_step(cfg, state, world, lr=0.01)
        saver.save(state)
        weights.append({name: weight.clone() for name, weight in state.model.state_dict().items()})
    saver.wait()
    return state, weights


@pytest.fixture
def load(folder, world):
    def load_(state):
        said = []
        found = load_latest(folder, state, world, say=said.append)
        return found and found.name, "\n".join(said)

    return load_


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_weights(state, expected):
    found = state.model.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_the_last_ones_are_kept(folder, trained):
    assert names(folder) == ["step_00000003", "step_00000004"]
    assert [path.name for path in list_checkpoints(folder)] == names(folder)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_latest_is_loaded_and_goes_on_as_the_unbroken_run(name, make_state, saver, load, cfg, world):
    optim = Optim(name=name, lr=0.01)
    unbroken = make_state(optim)
    for _ in range(3):
        train_step(cfg, unbroken, world, lr=0.01)
    saver.save(unbroken)
    drawn = torch.rand(3)
    saver.wait()
    state = make_state(optim)
    assert load(state) == ("step_00000003", "")
    assert state.step == 3
    assert torch.equal(torch.rand(3), drawn)
    for _ in range(2):
        assert train_step(cfg, state, world, lr=0.01) == train_step(cfg, unbroken, world, lr=0.01)
    assert_same_weights(state, unbroken.model.state_dict())


def test_what_is_saved_is_the_state_of_that_moment_and_not_what_became_of_it(
    make_state, saver, load, cfg, world
):
    state = make_state()
    train_step(cfg, state, world, lr=0.01)
    expected = {name: weight.clone() for name, weight in state.model.state_dict().items()}
    saver.save(state)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.zero_()
    saver.wait()
    other = make_state()
    load(other)
    assert_same_weights(other, expected)


def test_folder_without_its_marker_is_passed_over(folder, trained, make_state, load):
    (folder / "step_00000004" / MARKER).unlink()
    state = make_state()
    assert load(state) == ("step_00000003", "")
    assert state.step == 3
    assert_same_weights(state, trained[1][3])


def damage(checkpoint: Path, how: str) -> None:
    data = checkpoint / "__0_0.distcp"
    if how == "flipped":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif how == "truncated":
        data.write_bytes(data.read_bytes()[:1000])
    elif how == "gone":
        data.unlink()
    elif how == "metadata":
        (checkpoint / ".metadata").write_bytes(b"")
    else:
        (checkpoint / MARKER).write_text("{")


@pytest.mark.parametrize("how", ["flipped", "truncated", "gone", "metadata", "marker"])
def test_the_last_whole_one_is_used_and_the_damaged_one_is_named(how, folder, trained, make_state, load):
    damage(folder / "step_00000004", how)
    state = make_state()
    found, said = load(state)
    assert found == "step_00000003"
    assert f"{folder}/step_00000004: this checkpoint cannot be used: " in said
    assert "going on from the last one that is whole, step_00000003" in said
    assert_same_weights(state, trained[1][3])


def test_a_damaged_one_is_replaced_when_its_step_comes_again(
    folder, trained, make_state, load, saver, cfg, world
):
    damage(folder / "step_00000004", "flipped")
    state = make_state()
    load(state)
    train_step(cfg, state, world, lr=0.01)
    saver.save(state)
    saver.wait()
    again = make_state()
    assert load(again) == ("step_00000004", "")
    assert_same_weights(again, trained[1][4])


def test_if_all_are_damaged_nothing_is_loaded_and_each_is_named(folder, trained, make_state, load):
    for step in (3, 4):
        damage(folder / f"step_{step:08d}", "truncated")
    state = make_state()
    before = {name: weight.clone() for name, weight in state.model.state_dict().items()}
    with pytest.raises(UserError, match=r"step_00000004: .*\n.*step_00000003: .*\n.*rm -r"):
        load(state)
    assert state.step == 0
    assert_same_weights(state, before)


def test_a_checkpoint_of_another_model_is_refused_by_name(
    folder, trained, make_model, make_loader, cfg, load
):
    model = make_model(hidden_size=32)
    state = TrainState(model, build_optimizer(model, cfg.optim), make_loader(cfg))
    with pytest.raises(UserError, match=r"step_00000004: this checkpoint cannot be used: model\..* shape"):
        load(state)


def test_leftovers_of_killed_saves_and_removals_are_cleaned(folder, trained, make_state, load):
    for name in (".step_00000005.partial", ".step_00000002.doomed"):
        (folder / name).mkdir()
        (folder / name / "__0_0.distcp").write_bytes(b"half of it")
    state = make_state()
    load(state)
    assert state.step == 4
    assert names(folder) == ["step_00000003", "step_00000004"]


def test_order_is_that_of_the_steps(folder, trained, saver):
    state, _ = trained
    for step in (90, 1000):
        state.step = step
        saver.save(state)
    saver.wait()
    assert names(folder) == ["step_00000090", "step_00001000"]


def test_without_a_checkpoint_nothing_is_loaded(make_state, load):
    state = make_state()
    before = {name: weight.clone() for name, weight in state.model.state_dict().items()}
    assert load(state) == (None, "")
    assert state.step == 0
    assert_same_weights(state, before)


def test_every_file_is_on_the_list_with_its_hash(folder, trained):
    checkpoint = folder / "step_00000004"
    marker = json.loads((checkpoint / MARKER).read_text())
    assert marker["files"].keys() | {MARKER} == {path.name for path in checkpoint.iterdir()}
    assert (marker["step"], marker["world_size"]) == (4, 1)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here: needs Linux and root")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(disk: Path, left: int) -> None:
    (disk / "other").write_bytes(b"x" * (shutil.disk_usage(disk).free - left))


def test_a_full_disk_is_told_before_it_is_written_to_and_what_was_saved_stays(
    small_disk, make_state, world, cfg
):
    folder = small_disk / "run" / "checkpoints"
    folder.mkdir(parents=True)
    saver, state = Saver(folder, world, keep_last=2), make_state()
    train_step(cfg, state, world, lr=0.01)
    saver.save(state)
    saver.wait()
    fill(small_disk, left=100_000)
    train_step(cfg, state, world, lr=0.01)
    with pytest.raises(TrainingFailed) as told:
        saver.save(state)
    message = str(told.value)
    assert "step_00000002 was not saved: the disk is full: it takes " in message
    assert " are missing\n  step_00000001 is whole: make room, and go on with `tune run" in message
    assert names(folder) == ["step_00000001"]
    assert load_latest(folder, make_state(), world, say=print) == folder / "step_00000001"


def test_a_disk_that_fills_up_while_it_is_written_to_leaves_no_half_checkpoint(
    small_disk, make_state, world, cfg, monkeypatch
):
    folder = small_disk / "run" / "checkpoints"
    folder.mkdir(parents=True)
    saver, state = Saver(folder, world, keep_last=2), make_state()
    train_step(cfg, state, world, lr=0.01)
    fill(small_disk, left=100_000)
    usage = shutil.disk_usage(small_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9))  # as if it came after
    saver.save(state)
    monkeypatch.undo()
    with pytest.raises(TrainingFailed, match=r"the disk is full.*missing\n  nothing was saved before"):
        saver.wait()
    assert names(folder) == []
