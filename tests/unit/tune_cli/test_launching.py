"""`tune run` and the number of processes: what is asked for, what there is, who else has started some."""

import json
import os
from pathlib import Path

import pytest

from tune_recipes import runs
from tune_recipes.schema import Training

DEMO = ("run", "full_finetune", "--config", "demo_full_finetune")
PROBE = """\
import json, os, sys

from tune_recipes.schema import Options


class Config(Options, frozen=True):
    x: int = 1
    {field}


if __name__ == "__main__":
    import torch
    names = ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    seen = {{name: os.environ.get(name) for name in names}}
    print(json.dumps({{**seen, "threads": torch.get_num_threads(), "words": sys.argv[1:]}}))
"""
TRAINS = PROBE.format(field="output_dir: str = 'runs'")
DOES_NOT_TRAIN = PROBE.format(field="")


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch):
    """Nothing here may depend on what the machine has."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch):
    """Four GPUs, as far as can be told without PyTorch."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")


@pytest.mark.parametrize("option", ["--num-gpus", "--num_gpus"])
@pytest.mark.parametrize("number", ["64", "0", "-1", "all"])
def test_gpus_where_none_is_are_refused_with_what_to_type_instead(refused, option, number):
    message = refused(*DEMO, option, number)
    assert message.startswith(f"--num-gpus {number}: no GPU is here (CUDA_VISIBLE_DEVICES)")
    assert "leave it out for one process" in message


@pytest.mark.parametrize("number", ["64", "0", "-1"])
@pytest.mark.usefixtures("with_gpus")
def test_a_wrong_number_of_gpus_is_told_with_how_many_are_there(refused, number):
    assert refused(*DEMO, f"--num-gpus={number}").splitlines() == [
        f"--num-gpus {number}: 4 GPUs are here (CUDA_VISIBLE_DEVICES)",
        "  `--num-gpus 4` or `--num-gpus all` uses them all",
    ]


@pytest.mark.usefixtures("with_gpus")
def test_other_wishes_that_cannot_be_are_refused(refused):
    assert "no GPU 7; 4 GPUs are here" in refused(*DEMO, "--gpus", "0,7")
    assert "--num-gpus two: a number of GPUs, or all" in refused(*DEMO, "--num-gpus", "two")
    assert "leave all but one out" in refused(*DEMO, "--num-gpus", "2", "--nproc", "2")
    assert "--nproc 0: it takes at least one process" in refused(*DEMO, "--nproc", "0")
    assert "--nnodes 2 without --rdzv-endpoint" in refused(*DEMO, "--nnodes", "2")
    assert "--max-restarts -1: 0 or more" in refused(*DEMO, "--max-restarts", "-1")
    meet = ("--rdzv-endpoint", "127.0.0.1:1")
    assert "without --nnodes: of how many machines?" in refused(*DEMO, *meet)
    assert "only what runs on one machine" in refused(*DEMO, *meet, "--nnodes", "2", "--max-restarts", "1")


def test_the_machine_is_looked_at_before_what_takes_longer(refused):
    assert "no GPU is here" in refused("run", "full_finetune", "--num-gpus", "2", "data.path=nowhere", "x=1")


def test_without_a_wish_it_runs_in_this_process_on_all_cores(tune_here):
    Path("tiny.py").write_text(TRAINS)
    said = tune_here("run", "tiny.py")
    seen = json.loads(said.out)
    assert (seen["RANK"], seen["WORLD_SIZE"], seen["OMP_NUM_THREADS"]) == (None, None, None)
    assert said.err == ""
    (folder,) = Path("runs").iterdir()
    assert seen["words"] == ["--run-dir", str(folder)]
    assert not (folder / runs.RANK_LOGS).exists()


@pytest.mark.usefixtures("with_gpus")
def test_gpus_that_are_left_idle_are_told_in_one_line(tune_here):
    Path("tiny.py").write_text(TRAINS)
    said = tune_here("run", "tiny.py", "--nproc", "1")
    assert said.err == "4 GPUs are here, this run computes on the CPU; --num-gpus all uses them all\n"
    assert json.loads(said.out)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("words", [["--nproc", "2"], ["--nnodes", "2", "--rdzv-endpoint", "127.0.0.1:1"]])
def test_a_recipe_that_does_not_train_runs_in_one_process(refused, words):
    Path("tiny.py").write_text(DOES_NOT_TRAIN)
    message = refused("run", "tiny.py", *words)
    assert message.startswith("tiny does not train, so 2 processes would all do the same")
    assert refused("run", "tiny.py", "--dry-run") == (
        "--dry-run: tiny does not train, so there is nothing to plan"
    )


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch):
    """Be one of two processes that torchrun has started."""

    def be(rank: int) -> None:
        for name, value in {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29500",
            "TORCHELASTIC_RUN_ID": "none",
        }.items():
            monkeypatch.setenv(name, value)

    return be


@pytest.mark.parametrize(("rank", "told"), [(0, "Joining the 2 processes that torchrun started\n"), (1, "")])
def test_a_process_of_another_launcher_joins_it_in_place(tune_here, torchrun, rank, told):
    Path("tiny.py").write_text(TRAINS)
    torchrun(rank)
    said = tune_here("run", "tiny.py", "x=2")
    assert said.err == told
    seen = json.loads(said.out)
    assert seen["RANK"] == str(rank)
    assert seen["words"] == ["x=2"]  # the first makes the run folder and tells the others
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "words", [["--nproc", "2"], ["--nnodes", "2", "--rdzv-endpoint", "h:1"], ["--dry-run"]]
)
def test_another_launcher_and_processes_of_our_own_exclude_each_other(refused, torchrun, words):
    torchrun(0)
    message = refused(*DEMO, *words)
    assert "torchrun has started the processes already (RANK=0, WORLD_SIZE=2)" in message
    assert f"leave {' '.join(words[:2])} out" in message


@pytest.mark.parametrize(
    ("variable", "told"),
    [("WORLD_SIZE", "WORLD_SIZE=2 without RANK"), ("SLURM_STEP_NUM_TASKS", "srun started 2 processes")],
)
def test_where_there_are_others_that_cannot_be_reached_nothing_runs_alone(
    refused, monkeypatch, variable, told
):
    monkeypatch.setenv(variable, "2")
    assert told in refused(*DEMO)


@pytest.fixture
def run(tune_here) -> Path:
    """The folder of a run."""
    Path("tiny.py").write_text(TRAINS)
    tune_here("run", "tiny.py")
    (folder,) = Path("runs").iterdir()
    (folder / runs.LOG).touch()
    return folder


@pytest.mark.usefixtures("with_gpus")
def test_a_run_goes_on_with_what_it_was_started_with(tune_here, run):
    def resumed(**facts: object) -> tuple[str, str]:
        runs.update_info(run, **facts)
        said = tune_here("run", "--resume", run)
        assert said.code == 0, said.err
        return json.loads(said.out)["CUDA_VISIBLE_DEVICES"], said.err

    told = "4 GPUs are here, this run "
    assert resumed(device="cpu")[0] == ""
    assert resumed(device="cpu")[1].startswith(told + "computes on the CPU")
    assert resumed(device="cuda") == ("0", told + "uses 1; --num-gpus all uses them all\n")


def test_a_run_on_gpus_that_are_not_here_is_not_resumed_on_something_else(refused, run):
    runs.update_info(run, device="cuda", world_size=2)
    message = refused("run", "--resume", run)
    assert message.startswith(f"{run} was started with 2 GPUs: --num-gpus 2: no GPU is here")
    assert "`--nproc 2` trains with 2 processes on the CPU" in message or os.cpu_count() == 1


def test_a_run_that_nobody_was_left_to_end_is_marked_as_it_ended(tune_here, run, capsys):
    for ending, code, status in (
        ("import os; os.kill(os.getpid(), 2)", 130, "interrupted"),
        ("import sys; sys.exit(1)", 1, "failed"),
    ):
        runs.update_info(run, status="running", device="cpu")
        (run / "recipe.py").write_text(f"{ending}\n")
        said = tune_here("run", "--resume", run)
        assert said.code == code
        assert runs.read_info(run).status == status
        assert said.err.endswith(f"not saved. Go on with:\n  tune run --resume {run}\n")


def test_a_resumed_run_is_not_planned(refused, run):
    assert "--dry-run: a resumed run does what it was started for" in refused(
        "run", "--resume", run, "--dry-run"
    )


def test_every_option_of_a_launch_is_known_with_dashes_and_underscores():
    from tune_cli.commands.run import OPTIONS
    from tune_cli.launching import Wish

    ours = {option[2:].replace("-", "_") for option in OPTIONS}
    assert ours >= set(Wish._fields)
    assert not ours & set(Training.__struct_fields__), "a recipe's option of the same name could not be set"
