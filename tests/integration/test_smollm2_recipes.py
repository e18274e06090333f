"""The recipes on a real model: what `tune run` writes follows peft and transformers step by step."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from support import RunTune, losses, stopped_by_signal
from tune_recipes.chat import load_chat_template
from tune_recipes.data.loader import Batch, build_loader
from tune_recipes.lora import add_lora, load_adapter, save_adapter
from tune_recipes.models.load import load_model
from tune_recipes.schema import Data
from tune_recipes.tokenizer import Tokenizer

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NUM_STEPS = 10
TEXTS = (
    "Hello world",
    "  two  spaces 12 345",
    "def f(x):\n\treturn x",
    "Größe 東京 🎉",
    "<|im_start|>a<|im_end|>",
)
CLOSE = {"atol": 1e-4, "rtol": 0}
SAME = (
    *("data.format=chat", "batch_size=2", f"max_steps={NUM_STEPS}", "epochs=9", "schedule.name=constant"),
    *("optim.lr=2e-4", "optim.weight_decay=0", "optim.max_grad_norm=1", "dtype=fp32", "seed=3"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty short chats, of unequal length so that batches are padded."""
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    with path.open("w") as file:
        for number in range(20):
            turns = [
                {"role": "user", "content": f"Count to {number % 7 + 1}."},
                {"role": "assistant", "content": ", ".join(str(i + 1) for i in range(number % 7 + 1))},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


def same_batches(folder: Path, data: Path) -> list[Batch]:
    options = Data(path=str(data), format="chat")
    loader = build_loader(options, Tokenizer(folder), batch_size=2, seed=3)
    return [batch for _ in range(NUM_STEPS) for batch in next(loader)]


def reference_losses(model: Any, batches: list[Batch], lr: float) -> list[float]:
    """Train a transformers model in the plainest way."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    seen = []
    for batch in batches:
        logits = model(input_ids=batch.input_ids).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    return seen


def theirs(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_tokenizer_template_and_masking_equal_transformers(smollm2: Path):
    reference: Any = AutoTokenizer.from_pretrained(smollm2)
    tokenizer = Tokenizer(smollm2)
    for text in TEXTS:
        assert tokenizer.encode(text) == reference(text)["input_ids"]
        assert tokenizer.decode(tokenizer.encode(text)) == reference.decode(
            reference(text)["input_ids"], skip_special_tokens=True
        )
    chat = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "Here."},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Still here."},
    ]
    template = load_chat_template(tokenizer)
    text, answers = template.render_with_answers(chat)
    assert text == reference.apply_chat_template(chat, tokenize=False)
    assert [text[start:end] for start, end in answers] == ["Here.<|im_end|>", "Still here.<|im_end|>"]
    prompt = template.render(chat[:1], add_generation_prompt=True)
    assert prompt == reference.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)


def test_lora_run_follows_peft_and_its_exports_load(
    smollm2: Path, data: Path, tmp_path: Path, tune_here: RunTune
):
    words = (
        "run",
        "lora_finetune",
        f"model={smollm2}",
        f"data.path={data}",
        *SAME,
        "lora.rank=8",
        "lora.merge=true",
    )
    done = tune_here(*words)
    assert done.code == 0, done.err

    model = load_model(smollm2, dtype=torch.float32)
    add_lora(model, rank=8, alpha=16.0, seed=3)  # the same start, handed to peft through a folder
    save_adapter(model, tmp_path / "start", base=str(smollm2))
    reference = peft.PeftModel.from_pretrained(theirs(smollm2), tmp_path / "start", is_trainable=True)
    expected = reference_losses(reference, same_batches(smollm2, data), 2e-4)
    assert done.losses == pytest.approx(expected, abs=1e-4)
    assert expected[-1] < expected[0]

    probe = same_batches(smollm2, data)[0].input_ids
    run = tmp_path / done.run_folder
    load_adapter(model := load_model(smollm2, dtype=torch.float32), run / "final")
    with torch.no_grad():
        ours = model.eval()(probe)
        in_peft = (
            peft.PeftModel.from_pretrained(theirs(smollm2), run / "final").eval()(input_ids=probe).logits
        )
        merged = theirs(run / "merged")(input_ids=probe).logits
    torch.testing.assert_close(in_peft, ours, **CLOSE)
    torch.testing.assert_close(merged, ours, atol=5e-4, rtol=0)  # the same sums in another order


def test_full_run_follows_transformers_and_its_export_loads(
    smollm2: Path, data: Path, tmp_path: Path, tune_here: RunTune
):
    words = ("run", "full_finetune", f"model={smollm2}", f"data.path={data}", *SAME, "optim.lr=1e-5")
    done = tune_here(*words)
    assert done.code == 0, done.err
    reference = theirs(smollm2).train()
    assert done.losses == pytest.approx(
        reference_losses(reference, same_batches(smollm2, data), 1e-5), abs=1e-4
    )

    final = tmp_path / done.run_folder / "final"
    probe = same_batches(smollm2, data)[0].input_ids
    with torch.no_grad():
        ours = load_model(final, dtype=torch.float32)(probe)
        torch.testing.assert_close(theirs(final)(input_ids=probe).logits, ours, **CLOSE)
    shutil.rmtree(tmp_path / "runs")  # two gigabytes


def test_killed_run_resumes_bit_for_bit(smollm2: Path, data: Path, tmp_path: Path, tune_here: RunTune):
    words = (
        *("run", "lora_finetune", f"model={smollm2}", f"data.path={data}", *SAME, "max_steps=6"),
        *("lora.dropout=0.1", "checkpoint.save_every=2"),
    )
    unbroken = tune_here(*words)
    assert unbroken.code == 0, unbroken.err
    expected = tmp_path / "unbroken"
    (tmp_path / unbroken.run_folder).rename(expected)
    run, done = stopped_by_signal(words, tmp_path, after_steps=3, signum=signal.SIGKILL)
    assert done.code == -signal.SIGKILL
    assert tune_here("run", "--resume", run).code == 0
    assert losses(run) == losses(expected)
    mine, reference = (
        load_file(folder / "final" / "adapter_model.safetensors") for folder in (run, expected)
    )
    assert mine.keys() == reference.keys()
    assert all(torch.equal(mine[name], reference[name]) for name in mine)
