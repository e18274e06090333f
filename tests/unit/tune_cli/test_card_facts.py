"""From folders of every kind to a model card."""

import json
from pathlib import Path

import pytest

from tune_cli.commands._card_facts import card_facts
from tune_hub.card import CardFacts, model_card
from tune_recipes import runs
from tune_recipes.catalog import RECIPES
from tune_recipes.config import load_config
from tune_recipes.errors import UserError
from tune_recipes.recipe_source import read_config_class

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}


def write(folder: Path, **files: object) -> Path:
    """Write a folder of JSON files; `a_b` is `a_b.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Make the folder of a run that has ended."""
    monkeypatch.chdir(tmp_path)
    base = write(tmp_path / "base", **{".tune-download": {"repository": "acme/m", "commit": "c1"}})
    (base / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n")

    def make(*words: str, recipe: str = "full") -> Path:
        path = RECIPES / f"{recipe}_finetune.py"
        loaded = load_config(read_config_class(path), None, ["model=base", "data.path=d.jsonl", *words])
        folder = runs.create_run(loaded, path, ["tune", "run", path.stem, *words])
        write(folder / "final", **({"adapter_config": LORA} if recipe == "lora" else {"config": {}}))
        return folder

    return make


def test_a_run_folder_means_what_is_final_in_it(run):
    folder = run()
    facts = card_facts(folder)
    assert card_facts(folder / "final") == facts
    assert (facts.name, facts.method, facts.form, facts.by_tune) == ("full_finetune", "full", "model", True)
    assert (facts.base_model, facts.base_commit, facts.license, facts.language) == (
        "acme/m",
        "c1",
        "mit",
        ("en",),
    )
    assert facts.command == "tune run full_finetune"


def test_an_adapter_and_the_model_it_was_merged_into_are_told_apart(run):
    folder = run("lora.rank=4", recipe="lora")
    merged = write(folder / "merged", config={})
    assert (card_facts(folder).form, card_facts(folder).method, card_facts(folder).rank) == (
        "adapter",
        "lora",
        4,
    )
    assert (card_facts(merged).form, card_facts(merged).method) == ("merged", "lora")


def test_a_link_to_a_run_is_the_run(run, tmp_path):
    (tmp_path / "link").symlink_to(run() / "final")
    assert card_facts(tmp_path / "link").method == "full"


@pytest.mark.parametrize(
    ("data_format", "prompt_format", "says"),
    [
        ("chat", "chat", None),
        ("alpaca", "alpaca", "### Instruction:\nWhy is the sky blue?"),
        ("completion", "raw", None),
    ],
)
def test_a_prompt_is_put_as_in_training(run, data_format, prompt_format, says):
    facts = card_facts(run(f"data.format={data_format}"))
    assert facts.prompt_format == prompt_format
    assert (facts.prompt_text is None) if says is None else (says in (facts.prompt_text or ""))


def test_no_token_of_the_command_or_the_settings_is_told(run):
    token = "hf" + "_AbCdEfGh1234IjKlMnOp5678QrStUvWx90"
    facts = card_facts(run(f"data.column_map={{output: {token}}}"))
    assert token not in model_card(facts)
    assert facts.settings["data.column_map.output"] == "<redacted: Hugging Face token>"
    assert "<redacted: Hugging Face token>" in (facts.command or "")


def test_a_damaged_run_is_told(run):
    folder = run()
    (folder / "run.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        card_facts(folder)


@pytest.mark.parametrize("use_dora", [True, False])
def test_an_adapter_without_a_run_tells_what_its_config_does(tmp_path, use_dora):
    config = {**LORA, "use_dora": use_dora, "base_model_name_or_path": "acme/base"}
    facts = card_facts(write(tmp_path / "my-adapter", adapter_config=config))
    assert facts == CardFacts(
        name="my-adapter",
        method="dora" if use_dora else "lora",
        form="adapter",
        by_tune=False,
        rank=4,
        alpha=8.0,
        base_model="acme/base",
        base_name="acme/base",
    )
    assert "Trained with" not in model_card(facts)


def test_the_base_of_an_adapter_is_asked_if_it_is_a_folder(tmp_path):
    base = write(tmp_path / "base", **{".tune-download": {"repository": "acme/m", "commit": "c1"}})
    named = {**LORA, "base_model_name_or_path": str(base)}
    facts = card_facts(write(tmp_path / "adapter", adapter_config=named))
    assert (facts.base_model, facts.base_commit) == ("acme/m", "c1")
    gone = {**LORA, "base_model_name_or_path": "/home/me/models/llama"}
    facts = card_facts(write(tmp_path / "adapter", adapter_config=gone))
    assert (facts.base_model, facts.base_name) == (None, "llama")
    assert "/home/me" not in model_card(facts)


def test_a_model_without_a_run_tells_what_its_files_do(tmp_path):
    folder = write(tmp_path / "m", config={"architectures": ["LlamaForCausalLM"]})
    facts = CardFacts(name="m", method=None, by_tune=False)
    assert card_facts(folder) == facts
    write(folder, tokenizer_config={"chat_template": "x"}, **{".tune-download": {"repository": "acme/m"}})
    assert card_facts(folder).prompt_format == "chat"
    assert card_facts(folder).base_model == "acme/m"
    assert "A language model, made from `acme/m`." in model_card(card_facts(folder))


@pytest.mark.parametrize("text", ["", "[]", '{"architectures": 3}', "\0", '{"r": "x", "lora_alpha": []}'])
@pytest.mark.parametrize("name", ["config", "adapter_config"])
def test_a_damaged_config_tells_nothing(tmp_path, name, text):
    (tmp_path / f"{name}.json").write_text(text)
    facts = card_facts(tmp_path)
    assert (facts.method, facts.pipeline_tag, facts.rank, facts.base) == (None, None, None, None)
    assert model_card(facts)


@pytest.mark.parametrize(
    ("names", "gguf_file", "is_converted"),
    [
        (["model.safetensors", "m.gguf"], None, False),
        (["m-q8.gguf", "m-f16.gguf"], "m-f16.gguf", True),
        (["pytorch_model.bin"], None, True),
    ],
)
def test_a_card_knows_what_weights_there_are(tmp_path, names, gguf_file, is_converted):
    for name in names:
        (tmp_path / name).touch()
    facts = card_facts(tmp_path)
    assert (facts.gguf_file, facts.is_converted) == (gguf_file, is_converted)


@pytest.mark.parametrize(
    ("architecture", "writes_text"), [("LlamaForCausalLM", True), ("BertModel", False), (None, True)]
)
def test_a_card_knows_whether_the_model_writes_text(tmp_path, architecture, writes_text):
    write(tmp_path, config={"architectures": [architecture]} if architecture else {})
    assert card_facts(tmp_path).writes_text is writes_text
