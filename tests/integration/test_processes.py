"""Two and four processes do what one does; a run goes on in any number of them. Each launch proves much."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support import TINY, TUNE, Finished, losses, stopped_by_signal
from tune_recipes.catalog import RECIPES
from tune_recipes.runs import read_info

NUM_STEPS = 46
RECORDS_A_STEP = 8
TINY_RUN = ("run", "full_finetune", "--config", "demo_full_finetune", *TINY, f"max_steps={NUM_STEPS}")
LIKE_ONE = {"abs": 1e-5, "rel": 0}


def words(num_processes: int) -> tuple[str, ...]:
    """The same steps, of eight records, in so many processes; 23 of them an epoch, the last one with four."""
    launch = ("--nproc", str(num_processes)) if num_processes > 1 else ()
    return (*TINY_RUN, f"batch_size={RECORDS_A_STEP // num_processes}", "checkpoint.save_every=10", *launch)


def tune(folder: Path, *typed: str | Path) -> Finished:
    folder.mkdir(exist_ok=True)
    command = [*TUNE, *map(str, typed)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    return Finished(done.returncode, done.stdout, done.stderr)


def only_run(folder: Path) -> Path:
    return next(path for path in (folder / "runs").iterdir() if path.name != "node_logs")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors")


def assert_close_weights(run: Path, other: Path) -> None:
    mine, theirs = weights(run), weights(other)
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-4, rtol=0, msg=name)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    done = tune(folder, *words(1))
    assert done.code == 0, done.err
    return only_run(folder)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp("two")
    done = tune(folder, *words(2))
    assert done.code == 0, done.err
    return only_run(folder), done


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """A run of two processes after Ctrl-C."""
    folder = tmp_path_factory.mktemp("stopped")
    return stopped_by_signal(words(2), folder, after_steps=12, signum=signal.SIGINT)


def test_two_processes_take_the_steps_of_one(one: Path, two: tuple[Path, Finished]):
    run, _ = two
    assert losses(run) == pytest.approx(losses(one), **LIKE_ONE)
    assert_close_weights(run, one)
    mine, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, one)
    )
    for key in ("lr", "target_tokens"):
        assert [line[key] for line in mine] == [line[key] for line in theirs]
    norms = ([line["grad_norm"] for line in lines] for lines in (mine, theirs))
    assert next(norms) == pytest.approx(next(norms), rel=1e-4)


def test_four_processes_take_the_steps_of_one(one: Path, tmp_path: Path):
    done = tune(tmp_path, *words(4))
    assert done.code == 0, done.err
    assert losses(only_run(tmp_path)) == pytest.approx(losses(one), **LIKE_ONE)
    assert_close_weights(only_run(tmp_path), one)


def test_what_two_processes_print_and_leave_behind(two: tuple[Path, Finished]):
    run, done = two
    info = read_info(run)
    assert (info.status, info.world_size, info.device) == ("finished", 2, "cpu")
    assert done.out == ""
    assert done.err == (run / "log.txt").read_text() == (run / "logs" / "rank_0.log").read_text()
    assert "Processes: 2; a step has 8 records, split over them" in done.err
    other = (run / "logs" / "rank_1.log").read_text()
    assert f"step {NUM_STEPS}/{NUM_STEPS}" in other
    assert "Traceback" not in other
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert {path.name for path in checkpoint.iterdir()} == {
        *("__0_0.distcp", "__1_0.distcp", ".metadata", "checkpoint.json")
    }


def test_ctrl_c_saves_in_all_processes_after_the_same_step(stopped: tuple[Path, Finished]):
    run, done = stopped
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    taken = len(losses(run))
    assert 12 <= taken < NUM_STEPS
    assert f"Stopped after step {taken} of {NUM_STEPS}; everything is saved" in done.err
    assert done.err.splitlines()[-1] == f"  tune run --resume runs/{run.name}"
    assert read_info(run).status == "interrupted"


def test_a_run_resumed_in_as_many_processes_equals_the_unbroken_one_bit_for_bit(
    stopped: tuple[Path, Finished], two: tuple[Path, Finished], tmp_path: Path
):
    run = shutil.copytree(stopped[0], tmp_path / "runs" / "copy")
    done = tune(tmp_path, "run", "--resume", run)  # of itself in two processes, as it was started
    assert done.code == 0, done.err
    assert "Processes: 2" in done.err
    assert losses(run) == losses(two[0])
    mine, theirs = weights(run), weights(two[0])
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("num_processes", [1, 4])
def test_a_run_goes_on_in_another_number_of_processes(
    num_processes: int, stopped: tuple[Path, Finished], one: Path, tmp_path: Path
):
    run = shutil.copytree(stopped[0], tmp_path / "runs" / "copy")
    done = tune(tmp_path, "run", "--resume", run, "--nproc", str(num_processes))
    assert done.code == 0, done.err
    assert losses(run) == pytest.approx(losses(one), **LIKE_ONE)
    assert_close_weights(run, one)


def test_bare_torchrun_trains_in_one_run_folder_and_tells_a_typo_once(one: Path, tmp_path: Path):
    def torchrun(*typed: str) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
        script = str(RECIPES / "full_finetune.py")
        return subprocess.run(
            [*launcher, *meet, script, *words(2)[2:-2], *typed],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )

    done = torchrun("max_steps=3")
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    assert losses(run) == pytest.approx(losses(one)[:3], abs=1e-2)  # the schedule is another
    assert losses(run)[0] == pytest.approx(losses(one)[0], **LIKE_ONE)
    assert done.stderr.count("Run folder: ") == 1
    assert "step 3/3" in (run / "logs" / "rank_1.log").read_text()
    wrong = torchrun("optim.lrr=1")
    assert wrong.returncode != 0
    assert wrong.stderr.count("error: optim.lrr: no such option") == 1
    assert list((tmp_path / "runs").iterdir()) == [run]


def test_two_machines_meet_and_train_in_one_run_folder(one: Path, tmp_path: Path):
    port = _free_port()
    meet = ("--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test")
    machines = [
        subprocess.Popen(
            [*TUNE, *words(2)[:-2], "max_steps=3", "--nproc", "1", *meet, "--node-rank", str(rank)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [machine.communicate(timeout=300)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], printed
    run = only_run(tmp_path)
    assert read_info(run).world_size == 2
    assert losses(run)[0] == pytest.approx(losses(one)[0], **LIKE_ONE)
    assert "Final loss" in printed[0]
    assert "Final loss" not in printed[1]


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_dry_run_prints_the_plan_and_leaves_nothing_behind(tmp_path: Path):
    done = tune(tmp_path, *words(2), "--dry-run")
    assert (done.code, done.err) == (0, "")
    for line in (
        r"    Processes           2 on this machine",
        r"    Backend             gloo",
        r"    Model               43,168 parameters in float32, all of them trained",
        rf"    Steps               {NUM_STEPS}",
        r"    A step              8 records, about ",
    ):
        assert line in done.out
    assert "MEMORY of each process" in done.out
    assert not list(tmp_path.iterdir())


def test_one_process_loads_nothing_of_what_many_need(tmp_path: Path):
    # PyTorch's own optimizers import the compiler, and with it FSDP: so look before there is one.
    show = "print(sorted(m for m in sys.modules if m.startswith('torch.distributed.')))"
    source = (RECIPES / "full_finetune.py").read_text()
    stop = f"    world.largest([1]); import sys; {show}; raise SystemExit\n    state = TrainState("
    (tmp_path / "loaded.py").write_text(source.replace("    state = TrainState(", stop))
    done = tune(tmp_path, "run", "loaded.py", "--config", "demo_full_finetune", *TINY)
    assert "torch.distributed.device_mesh" in done.out
    for package in ("fsdp", "elastic", "launcher", "checkpoint", "tensor."):
        assert f"torch.distributed.{package}" not in done.out


def test_the_error_of_the_process_that_failed_is_told_and_no_other(tmp_path: Path):
    source = (RECIPES / "full_finetune.py").read_text()
    fail = '    if world.rank == 1:\n        raise RuntimeError("a bad day")\n'
    (tmp_path / "mine.py").write_text(
        source.replace("    state = TrainState(", f"{fail}    state = TrainState(")
    )
    done = tune(tmp_path, "run", "mine.py", *words(2)[2:])
    run = only_run(tmp_path)
    assert done.code == 1
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert errors == ["error: rank 1 failed: RuntimeError: a bad day"]
    assert f"exit status 1; its log: runs/{run.name}/logs/rank_1.log" in done.err
    assert "gloo" not in done.err
    assert "ChildFailedError" not in done.err
    assert 'raise RuntimeError("a bad day")' in (run / "logs" / "rank_1.log").read_text()
    assert read_info(run).status == "failed"
