"""The main job, as a newcomer does it: train the demo, ask it, teach it more, ask again."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support import TINY, TUNE, RunTune
from tune_recipes.catalog import RECIPES
from tune_recipes.config import load_config
from tune_recipes.recipe_source import read_config_class
from tune_recipes.runs import read_info


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """README's command, in an empty folder."""
    folder = tmp_path_factory.mktemp("newcomer")
    command = [*TUNE, "run", "full_finetune", "--config", "demo_full_finetune"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


@pytest.fixture
def run_folder(demo: Any) -> Path:
    folder, _ = demo
    return next((folder / "runs").iterdir())


def ask(folder: Path, words: list[str]) -> str:
    done = subprocess.run([*TUNE, *words], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stderr
    return done.stdout


def test_the_last_lines_say_loss_outputs_and_a_next_command_that_answers_paris(demo: Any, run_folder: Path):
    folder, printed = demo
    loss, outputs, _, command = printed.splitlines()[-4:]
    assert float(loss.split("Final loss: ")[1]) < 0.05
    assert f"runs/{run_folder.name}" in outputs
    expected = f"--config demo_generate model=runs/{run_folder.name}/final"
    assert command == f'  tune run generate {expected} prompt="What is the capital of France?"'
    assert ask(folder, shlex.split(command)[1:]) == "Paris\n"


def test_the_run_folder_holds_what_ran_and_what_came_of_it(demo: Any, run_folder: Path):
    _, printed = demo
    assert {path.name for path in run_folder.iterdir()} == {
        *("config.yaml", "origins.json", "recipe.py", "run.json", "metrics.jsonl", "log.txt"),
        *("checkpoints", "final"),
    }
    assert (run_folder / "log.txt").read_text() == printed
    assert (run_folder / "recipe.py").read_bytes() == (RECIPES / "full_finetune.py").read_bytes()
    info = read_info(run_folder)
    assert (info.status, info.seed, info.world_size, info.data["records"]) == ("finished", 42, 1, 180)
    config = load_config(read_config_class(run_folder / "recipe.py"), run_folder / "config.yaml").config
    assert (config.optim.lr, config.init, config.seed) == (3e-3, "random", 42)
    origins = json.loads((run_folder / "origins.json").read_text())
    assert origins["optim.lr"].startswith("demo_full_finetune.yaml:")
    assert origins["seed"] == "default"
    metrics = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, len(metrics) + 1))
    assert metrics[-1].keys() >= {"loss", "lr", "grad_norm", "tokens_per_second", "peak_memory_bytes"}


def test_the_export_has_all_that_a_model_folder_has(run_folder: Path):
    assert {path.name for path in (run_folder / "final").iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }


def test_the_export_loads_in_transformers_with_equal_logits(run_folder: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tune_recipes.models.load import load_model

    reference: Any = AutoModelForCausalLM.from_pretrained(run_folder / "final", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run_folder / "final")
    chat = [{"role": "user", "content": "What is the capital of Japan?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = reference(ids).logits
        torch.testing.assert_close(
            load_model(run_folder / "final", dtype=torch.float32)(ids), expected, atol=1e-4, rtol=0
        )
    answer = reference.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "Tokyo"


def test_an_adapter_teaches_it_more_and_is_asked_alone_or_merged(run_folder: Path, tune_here: RunTune):
    def answer(model: Path, *words: str) -> str:
        question = "prompt=What is the currency of Japan?"
        return tune_here(
            "run", "generate", "--config", "demo_generate", f"model={model}", question, *words
        ).out

    model = run_folder / "final"
    done = tune_here(
        *("run", "lora_finetune", "--config", "demo_lora_finetune", f"model={model}", "lora.merge=true")
    )
    assert done.code == 0, done.err
    alone = answer(done.run_folder / "final")
    merged = answer(done.run_folder / "merged")
    on_base = answer(model, f"adapter={done.run_folder}/final")
    assert alone == merged == on_base
    assert "yen" in alone.lower()
    assert "yen" not in answer(model).lower()


def test_several_prompts_are_answered_in_order(run_folder: Path, tune_here: RunTune):
    prompts = '["What is the capital of France?", "What is the capital of Japan?"]'
    done = tune_here(
        *("run", "generate", "--config", "demo_generate", f"model={run_folder}/final", f"prompt={prompts}")
    )
    assert done.out == "Paris\n\nTokyo\n"  # an answer may have several lines


def test_a_copied_recipe_runs_under_a_new_name_from_another_folder(
    demo: Any, tune_here: RunTune, tmp_path: Path
):
    assert tune_here("cp", "full_finetune", "mine/hacked", "--make-parents").code == 0
    assert tune_here("cp", "demo_full_finetune", "mine/hacked.yaml").code == 0
    source = (tmp_path / "mine/hacked.py").read_text()
    source = source.replace(
        "    def __post_init__", '    shout: str = "quiet"\n    """What to shout."""\n\n    def __post_init__'
    ).replace("    torch.manual_seed", "    run.say(cfg.shout.upper())\n    torch.manual_seed")
    (tmp_path / "mine/hacked.py").write_text(source)
    assert "What to shout." in tune_here("run", "mine/hacked.py", "--help").out
    done = tune_here(
        *("run", "mine/hacked.py", "--config", "mine/hacked.yaml", "max_steps=2", "--shout", "hello", *TINY)
    )
    assert done.code == 0, done.err
    assert "HELLO" in done.err
    assert done.run_folder.name.split("-")[2] == "hacked"


def test_a_recipe_runs_under_bare_python(tmp_path: Path):
    shutil.copy(RECIPES / "full_finetune.py", tmp_path / "alone.py")
    command = [sys.executable, "alone.py", "--config", "demo_full_finetune", "max_steps=2", *TINY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Final loss" in done.stderr
    wrong = subprocess.run(
        [*command, "optim.lrr=3"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert wrong.returncode == 2
    assert "optim.lrr: no such option" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_the_rfc_line_works_as_it_stands(tmp_path: Path, tune_here: RunTune, run_folder: Path):
    shutil.copytree(run_folder / "final", tmp_path / "models" / "llama2")
    records = [{"instruction": f"Say {word}", "input": "", "output": word} for word in ("one", "two")]
    (tmp_path / "alpaca_data.json").write_text(json.dumps(records))
    done = tune_here("run", "full_finetune.py", "--config", "alpaca_llama2_full_finetune.yaml")
    assert done.code == 0, done.err
    assert "tune run generate --config alpaca_generate model=" in done.err
