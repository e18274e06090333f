"""What is only found while loading is told as clearly as what is found before; nothing is left half made."""

import json
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import TINY, TUNE, RunTune


@pytest.fixture
def model(tmp_path: Path, tune_here: RunTune) -> Path:
    """A tiny trained model."""
    done = tune_here("run", "full_finetune", "--config", "demo_full_finetune", *TINY, "max_steps=1")
    assert done.code == 0, done.err
    return (tmp_path / done.run_folder / "final").rename(tmp_path / "model")


def change_weights(model: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def finetune(tune_here: RunTune, model: Path, *words: str):
    data = ("data.path=builtin:demo/capitals.jsonl", "data.format=chat", "max_steps=1", "dtype=fp32")
    return tune_here("run", "full_finetune", f"model={model}", *data, *words)


def assert_told(done, *parts: str) -> None:
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    message = done.err[done.err.index("error: ") :]
    assert all(part in message for part in parts), message
    assert len(message.splitlines()) <= 6


def test_missing_tensor_is_named(model: Path, tune_here: RunTune):
    name = "model.layers.1.mlp.up_proj.weight"
    change_weights(model, lambda weights: weights.pop(name))
    assert_told(finetune(tune_here, model), name)


def test_misshapen_tensor_is_named_with_both_shapes(model: Path, tune_here: RunTune):
    name = "model.layers.0.self_attn.k_proj.weight"
    change_weights(model, lambda weights: weights.update({name: torch.zeros(3, 5)}))
    assert_told(finetune(tune_here, model), name, "3, 5", "16, 32")


def test_truncated_weights_are_told_with_the_file(model: Path, tune_here: RunTune):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert_told(finetune(tune_here, model), "model.safetensors")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ("data.jsonl", "empty")),
        ('{"instruction": "a", "output": "b"}\n{"instruction": \n', ("data.jsonl:2",)),
        ('{"question": "a", "answer": "b"}\n', ("data.jsonl:1", "instruction", "question", "answer")),
        ('{"instruction": "a", "output": 7}\n', ("data.jsonl:1", "output")),
        ("[1, 2]", ("data.jsonl",)),
    ],
    ids=["empty", "malformed", "other columns", "wrong type", "no objects"],
)
def test_a_bad_data_file_is_told_with_the_line(
    content: str, parts: tuple[str, ...], tmp_path: Path, model: Path, tune_here: RunTune
):
    (tmp_path / "data.jsonl").write_text(content)
    done = finetune(tune_here, model, "data.path=data.jsonl", "data.format=alpaca")
    assert_told(done, *parts)


def test_a_record_without_targets_is_named(tmp_path: Path, model: Path, tune_here: RunTune):
    record = {"instruction": "a very long question indeed " * 9, "output": "b"}
    (tmp_path / "data.jsonl").write_text(json.dumps(record) + "\n")
    words = ("data.path=data.jsonl", "data.format=alpaca", "data.max_seq_len=16")
    assert_told(finetune(tune_here, model, *words), "data.jsonl:1", "max_seq_len")


def test_a_lora_target_that_does_not_exist_is_told_with_those_that_do(model: Path, tune_here: RunTune):
    done = tune_here(
        *("run", "lora_finetune", f"model={model}", "data.path=builtin:demo/capitals.jsonl"),
        *("data.format=chat", "lora.targets=[query]"),
    )
    assert_told(done, "query", "q_proj")


def test_a_failed_run_is_written_down_as_failed(model: Path, tmp_path: Path, tune_here: RunTune):
    change_weights(model, lambda weights: weights.pop("model.norm.weight"))
    done = finetune(tune_here, model)
    info = json.loads((tmp_path / done.run_folder / "run.json").read_text())
    assert info["status"] == "failed"
    assert not (tmp_path / done.run_folder / "final").exists()
    log = (tmp_path / done.run_folder / "log.txt").read_text()
    assert "Traceback" in log
    assert "model.norm.weight" in log


def test_an_adapter_that_does_not_fit_is_refused(model: Path, tmp_path: Path, tune_here: RunTune):
    words = ("data.path=builtin:demo/capitals.jsonl", "data.format=chat", "max_steps=1", "dtype=fp32")
    done = tune_here("run", "lora_finetune", f"model={model}", *words)
    assert done.code == 0, done.err
    adapter = tmp_path / done.run_folder / "final"
    other = tune_here(
        "run", "full_finetune", "--config", "demo_full_finetune", *TINY, "shape.hidden_size=16", "max_steps=1"
    )
    asked = tune_here("run", "generate", f"model={other.run_folder}/final", f"adapter={adapter}", "prompt=Hi")
    assert_told(asked, str(adapter))


def test_training_that_diverges_stops_before_the_weights_change(tmp_path: Path, tune_here: RunTune):
    done = tune_here(
        *("run", "full_finetune", "--config", "demo_full_finetune", *TINY, "checkpoint.save_every=1"),
        *("optim.lr=1e12", "optim.max_grad_norm=.inf", "schedule.warmup_steps=0", "max_steps=30"),
    )
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "training has diverged" in done.err
    assert "capitals.jsonl:" in done.err
    run = tmp_path / done.run_folder
    assert not (run / "final").exists()
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    taken = len(done.losses)
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step_{taken:08d}"]


def test_records_beyond_the_context_of_the_model_are_refused(tune_here: RunTune):
    words = (*TINY, "shape.max_position_embeddings=8", "max_steps=1")
    done = tune_here("run", "full_finetune", "--config", "demo_full_finetune", *words)
    assert_told(done, "data.max_seq_len=8", "context of 8")


def test_a_tokenizer_larger_than_the_embedding_is_refused(model: Path, tune_here: RunTune):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    name = "model.embed_tokens.weight"
    change_weights(model, lambda weights: weights.update({name: weights[name][:100].clone()}))
    assert_told(finetune(tune_here, model), "do not belong together")


def test_a_full_memory_is_told_with_what_each_change_would_save(tmp_path: Path):
    words = ["run", "full_finetune", "--config", "demo_full_finetune", "shape.intermediate_size=400000"]
    limit = 6 * 10**9  # of addresses; the weights alone take 5
    done = subprocess.run(
        [*TUNE, *words, "batch_size=8"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("error: ") :]
    assert message.startswith("error: there is not enough memory: ")
    saved = {
        line.split("about")[0].strip(): float(line.split("about ")[1].split()[0].replace(",", ""))
        for line in message.splitlines()[2:]
    }
    assert saved.keys() == {
        "dtype=bf16",
        "the recipe lora_finetune",
        "2 processes or GPUs",
        "optim.name=sgd",
        "batch_size=4 grad_accum_steps=2",
    }
    assert all(size > 0 for size in saved.values())
    assert "Traceback" in next((tmp_path / "runs").glob("*/log.txt")).read_text()
