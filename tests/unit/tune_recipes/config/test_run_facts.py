"""What a run folder tells of a training, and that it tells nobody's folders."""

import json
from pathlib import Path

import msgspec
import pytest

from tune_recipes import runs
from tune_recipes.catalog import RECIPES
from tune_recipes.errors import UserError
from tune_recipes.run_facts import RunFacts, run_facts

STEPS = [
    {"step": 1, "loss": 3.0, "tokens": 100, "target_tokens": 40, "step_seconds": 1.5},
    {
        "step": 2,
        "loss": 2.5,
        "tokens": 120,
        "target_tokens": 50,
        "step_seconds": 0.5,
        "validation_loss": 2.75,
    },
    {"step": 3, "loss": 2.0, "tokens": 80, "target_tokens": 30, "step_seconds": 0.5},
]


@pytest.fixture
def facts(load):
    """Make a run that has ended, and gather what it tells."""

    def make(
        *words: str, recipe="full", command=("tune", "run"), metrics=STEPS, file=None, **info
    ) -> RunFacts:
        path = file or RECIPES / f"{recipe}_finetune.py"
        folder = runs.create_run(load(*words, recipe=recipe), path, command)
        lines = [line if isinstance(line, str) else json.dumps(line) for line in metrics]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        given = {"start": "2026-01-02T03:04:05+00:00", "end": "2026-01-02T04:04:05+00:00", "final_loss": 2.0}
        runs.update_info(folder, **{**given, **info})
        return run_facts(folder)

    return make


def test_a_run_tells_what_it_cost_and_where_it_came_out(facts):
    found = facts(data={"sha256": "ab", "records": 7}, world_size=2, device="cpu")
    assert (found.steps, found.tokens, found.target_tokens) == (3, 300, 120)
    assert (found.final_loss, found.validation_loss, found.duration_s) == (2.0, 2.75, 3600.0)
    assert (found.data_name, found.data_format, found.data_sha256, found.num_records) == (
        "d",
        "alpaca",
        "ab",
        7,
    )
    assert found.world_size == 2
    assert found.label == "full_finetune"
    assert {"python", "torch"} <= found.versions.keys()


def test_a_run_that_was_taken_up_again_took_the_time_of_its_steps(facts):
    assert facts(resumed=["2026-01-03T00:00:00+00:00"]).duration_s == 2.5


def test_a_run_without_end_or_steps_tells_no_numbers(facts):
    found = facts(metrics=[], end=None, final_loss=None)
    assert (found.steps, found.tokens, found.final_loss, found.duration_s) == (None, None, None, None)


def test_damaged_lines_are_passed_over(facts):
    found = facts(
        metrics=[STEPS[0], '{"step": 2, "lo', "[]", '{"loss": "x", "tokens": null}'], final_loss=None
    )
    assert (found.steps, found.tokens, found.final_loss) == (1, 100, 3.0)


@pytest.mark.parametrize(
    ("recipe", "words", "method"),
    [
        ("full", [], "full"),
        ("full", ["init=random"], "scratch"),
        ("lora", ["lora.rank=4", "lora.alpha=12"], "lora"),
    ],
)
def test_the_method_is_known_by_the_options(facts, recipe, words, method):
    found = facts(*words, recipe=recipe)
    assert found.method == method
    assert (found.base_model is None) == (method == "scratch")
    assert (found.rank, found.alpha) == ((4, 12.0) if method == "lora" else (None, None))


def test_a_copied_recipe_keeps_its_method(facts, tmp_path):
    copy = tmp_path / "mine.py"
    copy.write_bytes((RECIPES / "lora_finetune.py").read_bytes())
    assert (facts(recipe="lora", file=copy).method, facts(recipe="lora", file=copy).label) == ("lora", "mine")


def test_only_what_was_given_is_a_setting_and_no_folder_is(facts, tmp_path):
    found = facts(
        *("optim.lr=1e-4", "data.column_map={output: answer}", "optim.betas=[0.9, 0.95]", "data.format=chat"),
        *("output_dir=out", "logging.log_every=5", "checkpoint.save_every=9", f"model={tmp_path}/m"),
    )
    assert found.settings == {
        "optim.lr": "0.0001",
        "data.column_map.output": "answer",
        "optim.betas": "[0.9, 0.95]",
        "data.format": "chat",
    }


def test_the_base_is_what_the_run_noted(facts, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".tune-download.json").write_text('{"repository": "acme/m", "commit": "c1"}')
    base = facts().base_model
    assert base is not None
    assert (base.path, base.repository, base.commit) == ("m", "acme/m", "c1")


def test_the_base_of_an_older_run_is_looked_up_where_it_was_started(facts, tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.chdir(tmp_path)
    assert facts(base_model=None).base_model.license == "mit"
    monkeypatch.chdir("/")
    folder = next((tmp_path / "runs").iterdir())
    base = run_facts(folder).base_model
    assert base is not None
    assert (base.license, base.path) == ("mit", "m")


def test_data_from_the_hubs_cache_has_its_repository(facts, tmp_path):
    path = f"{tmp_path}/hub/datasets--tatsu-lab--alpaca/snapshots/{'0a' * 20}/data/train.jsonl"
    found = facts(f"data.path={path}")
    assert (found.dataset, found.data_name) == ("tatsu-lab/alpaca", "train.jsonl")


def test_a_command_can_be_typed_again_and_tells_no_home(facts, tmp_path):
    cwd = Path.cwd()
    found = facts(
        command=[
            *(
                "tune",
                "run",
                "full_finetune",
                "--config",
                "/home/me/my configs/c.yaml",
                f"data.path={cwd}/d/x.jsonl",
            ),
            *(
                "model=/home/me/models/llama/",
                "output_dir=~/runs",
                "prompt=it's",
                "--optim.lr=1e-4",
                "a=../../up/b",
            ),
        ]
    )
    assert found.command == (
        "tune run full_finetune --config c.yaml data.path=d/x.jsonl model=llama output_dir=runs "
        "'prompt=it'\"'\"'s' --optim.lr=1e-4 a=b"
    )
    found = facts(command=["/home/me/.venv/bin/python3.11", "/home/me/x/full_finetune.py", "seed=1"])
    assert found.command == "python full_finetune.py seed=1"


def test_no_folder_of_the_machine_is_told(facts, tmp_path):
    found = facts(f"model={tmp_path}/secret-place/m", f"data.path={tmp_path}/other-place/d.jsonl")
    told = msgspec.structs.replace(found, base_model=None, versions={})
    text = msgspec.json.encode(told).decode()
    assert str(tmp_path) not in text
    assert "place" not in text
    assert found.base_model.name == "m"


@pytest.mark.parametrize(
    ("hardware", "device", "size", "words"),
    [
        ({"processor": "AMD EPYC", "cores": 2}, "cpu", 1, "AMD EPYC, 2 cores"),
        ({"machine": "arm64", "cores": 8}, None, 1, "arm64, 8 cores"),
        ({"accelerator": "NVIDIA A100", "cores": 8}, "cuda", 1, "NVIDIA A100"),
        ({"accelerator": "NVIDIA A100", "cores": 8}, "cuda", 4, "4 x NVIDIA A100"),
        ({"processor": "x"}, "mps", 1, "mps"),
        ({}, "cpu", 1, None),
    ],
)
def test_hardware_is_told_in_a_line(facts, hardware, device, size, words):
    assert facts(hardware=hardware, device=device, world_size=size).hardware == words


def test_a_folder_that_is_no_run_is_told(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        run_facts(tmp_path)
