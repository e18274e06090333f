"""What a run does after a step: it saves when one is due, goes on or ends at a loss that is no number."""

import json
import time

import pytest
import torch

from tune_recipes.errors import TrainingFailed
from tune_recipes.runs import RunInfo, write_info
from tune_recipes.schema import Checkpoint, Optim
from tune_recipes.train.checkpoint import TrainState, list_checkpoints
from tune_recipes.train.optim import build_optimizer
from tune_recipes.train.run import MAX_SKIPPED, Run
from tune_recipes.train.step import train_step


@pytest.fixture
def begin(tmp_path, world, make_model, make_loader):
    """Begin a run; return it with its state."""

    def begin_(cfg):
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        info = RunInfo(
            id="run",
            recipe="recipe.py",
            config=None,
            command=[],
            seed=1,
            versions={},
            git_commit=None,
            hardware={},
            start="2026-01-02T03:04:05+00:00",
        )
        write_info(tmp_path / "run", info)
        model = make_model(world.device)
        state = TrainState(model, build_optimizer(model, cfg.optim), make_loader(cfg))
        run = Run(tmp_path / "run", world, info)
        run.begin(cfg, state)
        return run, state

    return begin_


def take(run, cfg, state, num_steps, before_step=None):
    with run:
        for step in run.steps(state.step, num_steps):
            if before_step:
                before_step(step)
            run.after_step(cfg, state, train_step(cfg, state, run.world, lr=0.01))


def saved(run: Run) -> list[int]:
    return [int(path.name[5:]) for path in list_checkpoints(run.checkpoints)]


def metrics(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("every", "steps"), [(None, [7]), (3, [3, 6, 7]), (7, [7])])
def test_a_checkpoint_is_due_every_so_many_steps_and_at_the_end(begin, make_config, every, steps):
    cfg = make_config(checkpoint=Checkpoint(save_every=every, keep_last=9))
    run, state = begin(cfg)
    take(run, cfg, state, 7)
    assert saved(run) == steps


def test_a_checkpoint_is_due_every_so_many_minutes(begin, make_config):
    cfg = make_config(checkpoint=Checkpoint(save_every_minutes=0.2 / 60, keep_last=99))
    run, state = begin(cfg)
    take(run, cfg, state, 6, before_step=lambda step: step in (3, 5) and time.sleep(0.25))
    assert {3, 5, 6} <= set(saved(run))
    assert 1 not in saved(run)


def spoil(model, step_to_spoil):
    """Make the loss of a step no number: a weight is not, and is put back after it."""
    norm = model.model.norm.weight
    kept = norm.detach().clone()

    def before_step(step):
        with torch.no_grad():
            norm.copy_(torch.full_like(norm, float("nan")) if step in step_to_spoil else kept)

    return before_step


def test_a_loss_that_is_no_number_ends_the_run_with_the_records_noted(begin, make_config):
    cfg = make_config(optim=Optim(lr=0.01))
    run, state = begin(cfg)
    with pytest.raises(TrainingFailed, match=r"(?s)step 2: the loss is nan .*on_nan=skip") as told:
        take(run, cfg, state, 9, spoil(state.model, {2}))
    (noted,) = (json.loads(line) for line in (run.folder / "not_finite.jsonl").read_text().splitlines())
    assert noted["step"] == 2
    assert noted["loss"] is None
    (records,) = noted["records"]
    assert [record.rpartition(":")[2] for record in records] == ["3", "4"]  # two a step, in the file's order
    assert records[0] in str(told.value)
    assert [line["step"] for line in metrics(run)] == [1]
    assert saved(run) == []


def test_such_a_step_can_be_skipped_and_leaves_the_weights_as_they_were(begin, make_config):
    cfg = make_config(optim=Optim(lr=0.01), on_nan="skip")
    run, state = begin(cfg)
    kept = {}

    def before_step(step):
        spoil_step(step)
        if step in (2, 3):
            kept[step] = state.model.lm_head.weight.detach().clone()

    spoil_step = spoil(state.model, {2})
    state.model.model.norm.weight.requires_grad_(False)  # spoil puts it back as it was
    take(run, cfg, state, 4, before_step)
    assert torch.equal(kept[2], kept[3])
    assert [line["loss"] is None for line in metrics(run)] == [False, True, False, False]
    assert len((run.folder / "not_finite.jsonl").read_text().splitlines()) == 1
    assert saved(run) == [4]


def test_too_many_in_a_row_end_the_run_all_the_same(begin, make_config):
    cfg = make_config(on_nan="skip", epochs=99)
    run, state = begin(cfg)
    with pytest.raises(TrainingFailed, match=rf"step {MAX_SKIPPED + 1}: .*as in the {MAX_SKIPPED - 1} steps"):
        take(run, cfg, state, 99, spoil(state.model, set(range(2, 99))))
    assert len(metrics(run)) == MAX_SKIPPED
