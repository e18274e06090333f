"""A real model, converted from GGUF: decoder, LoRA, training and export against transformers and peft."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as all the world calls it
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tune_checkpoint import convert
from tune_recipes.lora import add_lora, load_adapter, merge_lora_, save_adapter
from tune_recipes.losses import IGNORE_INDEX, cross_entropy_sum
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.export import save_model
from tune_recipes.models.load import load_model
from tune_recipes.sampling import generate

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOLERANCE = {"atol": 1e-4, "rtol": 0}
# The same sums in another order, as in a padded batch or with merged weights, on logits of up to 30.
REORDERED = {"atol": 5e-4, "rtol": 0}
QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Which planet is the largest one, and how many moons does it have?",
)
NUM_STEPS = 10


@pytest.fixture(scope="module")
def folder(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    convert(smollm2_gguf, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    def ids(question: str) -> list[int]:
        messages = [{"role": "user", "content": question}]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]

    return [ids(question) for question in QUESTIONS]


def ours(folder: Path) -> Decoder:
    return load_model(folder, dtype=torch.float32)


def theirs(folder: Path) -> Any:
    """Load in transformers, and nothing may be missing, left over or misshapen."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    model, info = loaded
    assert not any(info.values()), info
    return model


@torch.no_grad()
def test_logits_equal_transformers(folder: Path, prompts: list[list[int]]):
    model, reference = ours(folder), theirs(folder)

    alone = [reference(torch.tensor([prompt])).logits[0] for prompt in prompts]
    for prompt, expected in zip(prompts, alone, strict=True):
        torch.testing.assert_close(model(torch.tensor([prompt]))[0], expected, **TOLERANCE)

    longest = max(map(len, prompts))
    for side in ("left", "right"):
        padded, mask = torch.full((3, longest), 2), torch.zeros(3, longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            place = slice(longest - len(prompt), None) if side == "left" else slice(len(prompt))
            padded[row, place], mask[row, place] = torch.tensor(prompt), 1
        logits = model(padded, attention_mask_BS=mask)
        batched = reference(
            padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)
        ).logits
        torch.testing.assert_close(logits[mask.bool()], batched[mask.bool()], **TOLERANCE)
        torch.testing.assert_close(logits[mask.bool()], torch.cat(alone), **REORDERED)


def test_greedy_generation_agrees_with_transformers_and_names_paris(
    folder: Path, tokenizer: Any, prompts: list[list[int]]
):
    model, reference = ours(folder), theirs(folder)
    reference.generation_config.eos_token_id = None  # forty tokens, also where an answer is shorter

    steps = list(generate(model, prompts, max_new_tokens=40, ignore_eos=True))

    for row, prompt in enumerate(prompts):
        expected = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=40,
            pad_token_id=2,
        )
        text = [step[row] for step in steps]
        assert text == expected[0, len(prompt) :].tolist()
        if row == 0:
            assert "Paris" in tokenizer.decode(text)


@dataclass(frozen=True)
class Batch:
    """Two questions and answers, padded on the right."""

    input_ids: Tensor
    mask: Tensor
    targets: Tensor
    """The token after each position; IGNORE_INDEX for those of the question and the padding."""


@pytest.fixture(scope="module")
def batches(tokenizer: Any) -> list[Batch]:
    places = ("France", "Italy", "Spain", "Peru", "Kenya", "Japan", "Chile", "Egypt", "Norway", "Ghana")
    facts = [
        (f"Where is {place}?", f" {place} is number {number * 37}.") for number, place in enumerate(places)
    ]
    facts += [
        ("2 + 2", " = 4"),
        ("Red,", " green and blue"),
        ("Say it again:", " again and again and again."),
    ]
    return [_batch(tokenizer, [facts[step], facts[-1 - step]]) for step in range(NUM_STEPS)]


def _batch(tokenizer: Any, facts: list[tuple[str, str]]) -> Batch:
    pairs = [
        (tokenizer(prompt)["input_ids"], [*tokenizer(answer)["input_ids"], 2]) for prompt, answer in facts
    ]
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    input_ids, mask = (
        torch.full((len(pairs), longest), 2),
        torch.zeros(len(pairs), longest, dtype=torch.int64),
    )
    labels = torch.full((len(pairs), longest), IGNORE_INDEX)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        input_ids[row, :end], mask[row, :end] = torch.tensor(prompt + answer), 1
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return Batch(input_ids[:, :-1], mask[:, :-1], labels[:, 1:])


def train(model: Any, loss_of: Any, batches: list[Batch], lr: float) -> list[float]:
    """Take a step of AdamW a batch and return the losses; the loop is the same for both sides."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    model.train()
    for batch in batches:
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def our_loss(model: Decoder, batch: Batch) -> Tensor:
    keep = batch.targets != IGNORE_INDEX
    logits = model(batch.input_ids, keep_BS=keep)  # no mask: the padding is on the right
    return cross_entropy_sum(logits, batch.targets[keep]) / keep.sum()


def their_loss(model: Any, batch: Batch) -> Tensor:
    logits = model(batch.input_ids, attention_mask=batch.mask).logits
    return F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX)


@dataclass(frozen=True)
class Run:
    """What ten LoRA steps of ours gave."""

    losses: list[float]
    logits: Tensor
    """Of the trained model on the first batch."""
    merged_logits: Tensor
    """Of the same with the adapter merged in."""
    initial: Path
    """The adapter before training."""
    trained: Path
    """The adapter after it."""
    merged: Path
    """The exported model with the adapter merged in."""


@pytest.fixture(scope="module")
def lora_run(folder: Path, batches: list[Batch], tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("lora")
    model = ours(folder)
    add_lora(model, rank=8, alpha=16, dropout=0.0, seed=0)
    save_adapter(model, root / "initial", base=str(folder))
    losses = train(model, our_loss, batches, lr=1e-3)
    save_adapter(model, root / "trained", base=str(folder))
    with torch.no_grad():
        logits = model(batches[0].input_ids)
    merge_lora_(model)
    save_model(model, root / "merged", config=model.config, source=folder)
    with torch.no_grad():
        merged_logits = model(batches[0].input_ids)
    return Run(losses, logits, merged_logits, root / "initial", root / "trained", root / "merged")


def test_ten_lora_steps_follow_peft(folder: Path, batches: list[Batch], lora_run: Run):
    model = peft.PeftModel.from_pretrained(theirs(folder), str(lora_run.initial), is_trainable=True)

    losses = train(model, their_loss, batches, lr=1e-3)

    assert sum(p.requires_grad for p in model.parameters()) == 30 * 7 * 2
    assert lora_run.losses == pytest.approx(losses, abs=1e-4)
    assert lora_run.losses[-1] < lora_run.losses[0]


@torch.no_grad()
def test_adapter_folder_loads_in_peft_and_here_with_equal_logits(
    folder: Path, batches: list[Batch], lora_run: Run
):
    reference = peft.PeftModel.from_pretrained(theirs(folder), str(lora_run.trained))
    torch.testing.assert_close(reference(batches[0].input_ids).logits, lora_run.logits, **TOLERANCE)

    model = ours(folder)
    load_adapter(model, lora_run.trained)
    torch.testing.assert_close(model(batches[0].input_ids), lora_run.logits, **TOLERANCE)


@torch.no_grad()
def test_merged_export_loads_in_transformers_with_equal_logits(
    folder: Path, batches: list[Batch], lora_run: Run
):
    logits = theirs(lora_run.merged)(batches[0].input_ids).logits
    torch.testing.assert_close(logits, lora_run.merged_logits, **TOLERANCE)
    torch.testing.assert_close(logits, lora_run.logits, **REORDERED)
    assert AutoTokenizer.from_pretrained(lora_run.merged).chat_template
    files = {path.name for path in folder.iterdir()} - {"README.md"}  # that is of the model that was tuned
    assert {path.name for path in lora_run.merged.iterdir()} == files


def test_ten_full_steps_follow_transformers_and_the_export_loads_there(
    folder: Path, batches: list[Batch], tmp_path: Path
):
    model = ours(folder)
    losses = train(model, our_loss, batches, lr=2e-5)
    with torch.no_grad():
        logits = model(batches[0].input_ids)
    save_model(model, tmp_path / "out", config=model.config, source=folder)
    del model  # two models and their optimizers are more than a small machine holds
    with torch.no_grad():
        exported = theirs(tmp_path / "out")(batches[0].input_ids).logits

    torch.testing.assert_close(exported, logits, **TOLERANCE)
    assert losses == pytest.approx(train(theirs(folder), their_loss, batches, lr=2e-5), abs=1e-4)
    assert losses[-1] < losses[0]
