"""Cards of models that were really trained: the Hub's client reads them, and the code in them runs."""

import re
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from huggingface_hub import ModelCard

from support import RunTune
from tune_cli.commands._card_facts import card_facts
from tune_hub.card import model_card
from tune_hub.secrets import find_secrets

STEPS = ("max_steps=5", "logging.log_every=1000")


class Trained(NamedTuple):
    """Folders of runs."""

    full: Path
    lora: Path


@pytest.fixture
def trained(tune_here: RunTune, tmp_path: Path) -> Trained:
    """A model trained from scratch for five steps, and an adapter on it."""
    base = tune_here("run", "full_finetune", "--config", "demo_full_finetune", *STEPS)
    assert base.code == 0, base.err
    full = tmp_path / base.run_folder
    adapter = tune_here(
        *("run", "lora_finetune", "--config", "demo_lora_finetune", *STEPS),
        *("lora.merge=true", f"model={full / 'final'}"),
    )
    assert adapter.code == 0, adapter.err
    return Trained(full, tmp_path / adapter.run_folder)


# What peft asks of transformers has a new name there.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_runs_make_cards_that_the_hub_reads_and_code_that_runs(trained: Trained, tmp_path: Path, capsys):
    folders = {
        "model": trained.full / "final",
        "adapter": trained.lora / "final",
        "merged": trained.lora / "merged",
    }
    for form, folder in folders.items():
        facts = card_facts(folder)
        text = model_card(facts)
        data = ModelCard(text).data.to_dict()
        assert data["library_name"] == ("peft" if form == "adapter" else "transformers")
        assert data["tags"] == (["tune"] if form == "model" else ["tune", "lora"])
        assert "base_model" not in data  # it is no repository yet
        assert facts.form == form
        assert "| Steps | 5 |" in text
        assert re.search(r"\| Final loss \| \d\.\d{4} \|", text)
        assert "examples, sha256 `" in text
        assert str(tmp_path) not in text
        # The same with a place on this disk for a name: what a reader would type.
        here = msgspec.structs.replace(facts, name=str(folder), base_name=str(trained.full / "final"))
        _run_python_of(model_card(here))
        assert capsys.readouterr().out.endswith("\n")
    assert find_secrets(trained) == ()  # nothing that a run writes looks like a secret
    assert f"A LoRA adapter for `{trained.full.name}`" in model_card(card_facts(trained.lora))


def _run_python_of(card: str) -> None:
    block = re.search(r"^```python\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE)
    assert block
    exec(block[1].replace("max_new_tokens=256", "max_new_tokens=8"), {})


def test_the_command_of_a_card_reproduces_the_run(trained: Trained, tune_here: RunTune):
    command = card_facts(trained.full).command
    assert command
    again = tune_here(*command.split()[1:])
    assert again.code == 0, again.err
    assert card_facts(again.run_folder).final_loss == card_facts(trained.full).final_loss


def test_the_tokenizer_of_a_real_model_holds_no_secret(smollm2: Path):
    assert (smollm2 / "tokenizer.json").stat().st_size > 1_000_000
    assert find_secrets(smollm2) == ()
