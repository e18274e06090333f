"""A run that was killed, interrupted or never saved goes on, and ends as if nothing had happened."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from subprocess import PIPE

import pytest
import torch
from safetensors.torch import load_file

from support import TINY, TUNE, RunTune, losses, stopped_by_signal
from tune_recipes.catalog import local_path
from tune_recipes.runs import read_info, update_info

NUM_STEPS = 120
FULL = ("run", "full_finetune", "--config", "demo_full_finetune", *TINY, f"max_steps={NUM_STEPS}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def assert_same_weights(one: Path, other: Path) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    subprocess.run([*TUNE, *FULL, "checkpoint.save_every=10"], cwd=folder, check=True, capture_output=True)
    return next((folder / "runs").iterdir())


def test_resumed_run_equals_unbroken_run_after_sigkill(unbroken: Path, tmp_path: Path, tune_here: RunTune):
    words = (*FULL, "checkpoint.save_every=10")
    run, done = stopped_by_signal(words, tmp_path, after_steps=25, signum=signal.SIGKILL)
    assert done.code == -signal.SIGKILL
    taken = len(losses_so_far(run))
    assert 25 <= taken < NUM_STEPS
    resumed = tune_here("run", "--resume", run)
    assert resumed.code == 0, resumed.err
    assert f"Going on after step {taken // 10 * 10}" in resumed.err
    assert losses(run) == losses(unbroken)
    assert_same_weights(run / "final", unbroken / "final")
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step_{NUM_STEPS:08d}"]


def test_ctrl_c_saves_says_how_to_go_on_and_exits_130(unbroken: Path, tmp_path: Path, tune_here: RunTune):
    run, done = stopped_by_signal(FULL, tmp_path, after_steps=5, signum=signal.SIGINT)
    assert done.code == 130
    assert "Traceback" not in done.err
    taken = len(losses(run))
    assert f"Stopped after step {taken} of {NUM_STEPS}; everything is saved" in done.err
    assert done.err.splitlines()[-1] == f"  tune run --resume runs/{run.name}"
    assert read_info(run).status == "interrupted"
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step_{taken:08d}"]
    assert tune_here("run", "--resume", run).code == 0
    assert losses(run) == losses(unbroken)
    assert_same_weights(run / "final", unbroken / "final")
    assert read_info(run).status == "finished"
    assert len(read_info(run).resumed) == 1


def test_sigterm_saves_and_exits_143(tmp_path: Path):
    run, done = stopped_by_signal(FULL, tmp_path, after_steps=3, signum=signal.SIGTERM)
    assert done.code == 143
    assert list((run / "checkpoints").glob("step_*"))


def test_a_run_without_a_checkpoint_starts_anew(unbroken: Path, tmp_path: Path, tune_here: RunTune):
    run, _ = stopped_by_signal(FULL, tmp_path, after_steps=5, signum=signal.SIGKILL)
    assert not list((run / "checkpoints").iterdir())
    assert tune_here("run", "--resume", run).code == 0
    assert losses(run) == losses(unbroken)


def test_resuming_a_finished_run_changes_nothing(unbroken: Path, tmp_path: Path, tune_here: RunTune):
    run = tmp_path / "copy"
    shutil.copytree(unbroken, run)
    done = tune_here("run", "--resume", run)
    assert done.code == 0, done.err
    assert "Final loss" in done.err
    assert losses(run) == losses(unbroken)
    assert_same_weights(run / "final", unbroken / "final")


def test_a_lora_run_with_dropout_resumes_bit_for_bit(unbroken: Path, tmp_path: Path, tune_here: RunTune):
    words = (
        *("run", "lora_finetune", "--config", "demo_lora_finetune", f"model={unbroken}/final"),
        *("lora.dropout=0.2", "max_steps=60", "checkpoint.save_every=7", "logging.log_every=1000"),
        "grad_accum_steps=2",
    )
    reference = tune_here(*words)
    assert reference.code == 0, reference.err
    expected = reference.losses
    shutil.rmtree(tmp_path / "runs/kept", ignore_errors=True)
    kept = (tmp_path / reference.run_folder).rename(tmp_path / "kept")
    run, done = stopped_by_signal(words, tmp_path, after_steps=17, signum=signal.SIGKILL)
    assert done.code == -signal.SIGKILL
    assert tune_here("run", "--resume", run).code == 0
    assert losses(run) == expected
    assert_same_weights(run / "final", kept / "final")


def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(
    unbroken: Path, tmp_path: Path, tune_here: RunTune
):
    run, _ = stopped_by_signal(
        (*FULL, "checkpoint.save_every=10", "checkpoint.keep_last=2"),
        tmp_path,
        after_steps=35,
        signum=signal.SIGKILL,
    )
    one, last = sorted((run / "checkpoints").glob("step_*"))
    data = last / "__0_0.distcp"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    done = tune_here("run", "--resume", run)
    assert done.code == 0, done.err
    assert f"{last.name}: this checkpoint cannot be used: __0_0.distcp is not what was written" in done.err
    assert f"going on from the last one that is whole, {one.name}" in done.err
    assert losses(run) == losses(unbroken)
    assert_same_weights(run / "final", unbroken / "final")


def test_without_a_whole_checkpoint_the_run_is_left_as_it_is(
    unbroken: Path, tmp_path: Path, tune_here: RunTune
):
    run = tmp_path / "copy"
    shutil.copytree(unbroken, run)
    next((run / "checkpoints").glob("step_*/__0_0.distcp")).unlink()
    before = (run / "final" / "model.safetensors").read_bytes()
    done = tune_here("run", "--resume", run)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert f"step_{NUM_STEPS:08d}: this checkpoint cannot be used" in done.err
    assert "to start from the beginning, delete them: `rm -r" in done.err
    assert (run / "final" / "model.safetensors").read_bytes() == before


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path, tune_here: RunTune):
    data = tmp_path / "data.jsonl"
    record = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    data.write_text(json.dumps(record) + "\n")
    words = (
        "run",
        "full_finetune",
        "--config",
        "demo_full_finetune",
        *TINY,
        f"data.path={data}",
        "max_steps=2",
    )
    done = tune_here(*words)
    assert done.code == 0, done.err
    data.write_text((json.dumps(record) + "\n") * 2)
    resumed = tune_here("run", "--resume", done.run_folder)
    assert resumed.code == 2
    assert "put the old file back" in resumed.err


def test_a_template_with_the_date_goes_on_with_the_day_the_run_began(tmp_path: Path, tune_here: RunTune):
    shutil.copytree(local_path("builtin:demo"), tmp_path / "dated")
    template = tmp_path / "dated" / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}" + template.read_text())
    done = tune_here(*FULL, f"model={tmp_path}/dated", "data.train_on_input=true", "max_steps=2")
    today = done.losses
    update_info(done.run_folder, start="2024-02-29T12:00:00+00:00")
    shutil.rmtree(done.run_folder / "checkpoints" / "step_00000002")
    assert tune_here("run", "--resume", done.run_folder).code == 0
    assert losses(done.run_folder) != today


def test_a_run_that_is_going_on_cannot_be_resumed_beside_itself(tmp_path: Path, tune_here: RunTune):
    process = subprocess.Popen([*TUNE, *FULL, "max_steps=100000", "epochs=100000"], cwd=tmp_path, stderr=PIPE)
    try:
        while not (found := list(tmp_path.glob("runs/*/metrics.jsonl"))):
            time.sleep(0.01)
        done = tune_here("run", "--resume", found[0].parent)
        assert done.code == 2
        assert "going on already" in done.err
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    assert read_info(found[0].parent).status == "running"
    assert len(read_info(found[0].parent).resumed) == 0


def test_a_run_goes_on_from_wherever_the_command_is_typed(
    tmp_path: Path, tune_here: RunTune, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(local_path("builtin:demo/capitals.jsonl"), tmp_path / "facts.jsonl")
    done = tune_here(*FULL, "data.path=facts.jsonl", "max_steps=2")
    run = done.run_folder.resolve()
    shutil.rmtree(run / "checkpoints" / "step_00000002")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resumed = tune_here("run", "--resume", run)
    assert resumed.code == 0, resumed.err
    assert len(losses(run)) == 2
    assert not list((tmp_path / "elsewhere").iterdir())


def test_ctrl_c_before_the_first_step_is_written_down(tmp_path: Path):
    process = subprocess.Popen([*TUNE, *FULL], cwd=tmp_path, stderr=PIPE, text=True)
    while not (found := list(tmp_path.glob("runs/*/run.json"))):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in err
    assert "Traceback" not in err
    assert read_info(found[0].parent).status == "interrupted"


def test_options_are_refused_when_resuming(unbroken: Path, tune_here: RunTune):
    done = tune_here("run", "--resume", unbroken, "optim.lr=1")
    assert done.code == 2
    assert "keeps its config" in done.err


def losses_so_far(run: Path) -> list[str]:
    """Return the whole lines of metrics.jsonl; a killed run may have left half of one."""
    return (run / "metrics.jsonl").read_text().split("\n")[:-1]


def test_a_closed_terminal_does_not_end_what_nohup_started(tmp_path: Path):
    words = ["run", "full_finetune", "--config", "demo_full_finetune", *TINY, "max_steps=40"]
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + TUNE[-1]
    process = subprocess.Popen(
        [*TUNE[:-1], ignoring, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(tmp_path.glob("runs/*/metrics.jsonl")):
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Finished 40 steps" in err
