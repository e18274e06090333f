import pytest
import torch

from tune_recipes.schema import Optim
from tune_recipes.train.checkpoint import TrainState, list_checkpoints, load_latest, save_checkpoint
from tune_recipes.train.optim import build_optimizer
from tune_recipes.train.step import train_step


@pytest.fixture
def cfg(make_config):
    return make_config(batch_size=2, optim=Optim(lr=0.01))


@pytest.fixture
def make_state(make_model, make_loader, cfg, world):
    def make():
        model = make_model(world.device)
        return TrainState(model, build_optimizer(model, cfg.optim), make_loader(cfg))

    return make


@pytest.fixture
def trained(make_state, cfg, world, tmp_path):
    """Take four steps and save after each; return the state, and the weights after each step."""
    state, weights = make_state(), [make_state().model.state_dict()]
    for _ in range(4):
        train_step(cfg, state, world, lr=0.01)
        save_checkpoint(tmp_path / "checkpoints", state, keep_last=2)
        weights.append({name: weight.clone() for name, weight in state.model.state_dict().items()})
    return state, weights


@pytest.fixture
def folder(trained, tmp_path):
    return tmp_path / "checkpoints"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_weights(state, expected):
    found = state.model.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_the_last_ones_are_kept(folder):
    assert names(folder) == ["step_00000003", "step_00000004"]
    assert [path.name for path in list_checkpoints(folder)] == names(folder)


def test_latest_is_loaded_and_goes_on_as_the_unbroken_run(folder, trained, make_state, cfg, world):
    unbroken, weights = trained
    state = make_state()
    assert load_latest(folder, state) == folder / "step_00000004"
    assert state.step == 4
    assert_same_weights(state, weights[4])
    for _ in range(2):
        assert train_step(cfg, state, world, lr=0.01) == train_step(cfg, unbroken, world, lr=0.01)
    assert_same_weights(state, unbroken.model.state_dict())


def test_folder_without_its_marker_is_passed_over(folder, trained, make_state):
    (folder / "step_00000004" / "checkpoint.json").unlink()
    state = make_state()
    assert load_latest(folder, state) == folder / "step_00000003"
    assert state.step == 3
    assert_same_weights(state, trained[1][3])


def test_leftovers_of_killed_saves_and_removals_are_cleaned(folder, make_state):
    for name in (".step_00000005.partial", ".step_00000002.doomed"):
        (folder / name).mkdir()
        (folder / name / "state.pt").write_bytes(b"half of it")
    state = make_state()
    load_latest(folder, state)
    assert state.step == 4
    assert names(folder) == ["step_00000003", "step_00000004"]


def test_order_is_that_of_the_steps(folder, trained):
    state, _ = trained
    for step in (90, 1000):
        state.step = step
        save_checkpoint(folder, state, keep_last=2)
    assert names(folder) == ["step_00000090", "step_00001000"]


def test_without_a_checkpoint_nothing_is_loaded(make_state, tmp_path):
    state = make_state()
    before = {name: weight.clone() for name, weight in state.model.state_dict().items()}
    assert load_latest(tmp_path / "none", state) is None
    assert state.step == 0
    assert_same_weights(state, before)
