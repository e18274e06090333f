"""What a Config names is looked for before anything heavy is loaded."""

import json
import shutil
from pathlib import Path

import pytest

from tune_recipes.catalog import ROOT
from tune_recipes.checks import MissingFolder, check_inputs
from tune_recipes.errors import UserError

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder with all that is looked for."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "model.safetensors").touch()
    shutil.copy(ROOT / "builtin" / "demo" / "tokenizer.json", folder)
    (tmp_path / "d").write_text("{}\n")
    return folder


@pytest.fixture
def complaint(load, model):
    def complaint_(*words, **given) -> str:
        with pytest.raises(UserError) as error:
            check_inputs(load(*words, **given))
        return str(error.value)

    return complaint_


def test_a_whole_folder_and_a_file_pass(load, model):
    check_inputs(load())
    check_inputs(load("prompt=x", recipe="generate"))
    check_inputs(load("data.path=builtin:demo/capitals.jsonl"))


def test_a_missing_folder_is_told_with_the_option_and_where_it_was_set(load, complaint):
    assert complaint("model=nope") == "model: nope: no such folder\n  (set by model=nope)"
    with pytest.raises(MissingFolder) as error:
        check_inputs(load("model=a/b"))
    assert error.value.folder == Path("a/b")
    assert "(set by c.yaml:1)" in complaint(yaml="model: nope\ndata: {path: d}\n")


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("config.json", "no config.json in it"),
        ("tokenizer.json", "no tokenizer.json in it\n  found: config.json, model.safetensors"),
        ("model.safetensors", "no weights in it (*.safetensors)\n  found: config.json, tokenizer.json"),
    ],
)
def test_a_folder_that_lacks_a_file_is_told_with_what_is_there(complaint, model, missing, says):
    (model / missing).unlink()
    assert says in complaint()


def test_random_weights_need_no_weights(load, model):
    (model / "model.safetensors").unlink()
    check_inputs(load("init=random"))


def test_an_unsupported_architecture_is_told_by_name(complaint, model):
    (model / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    )
    assert "GPT2LMHeadModel is not supported; supported are LlamaForCausalLM" in complaint()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=d"], "model: d is a file; the folder of a Hugging Face checkpoint is needed"),
        (["model=a b.gguf"], "`tune convert-ckpt 'a b.gguf' --output-dir 'a b'` makes one"),
        (["data.path=m"], "data.path: m is a folder; a file is needed"),
        (["data.path=nope"], "data.path: nope: no such file in "),
        (["data.path=/nope"], "data.path: /nope: no such file\n"),
        (
            ["data.path=builtin:nope"],
            "builtin:nope does not ship with tune; this does: builtin:demo, builtin:demo/",
        ),
        (["model=builtin:nope"], "builtin:nope does not ship with tune"),
        (["data.path=" + "x" * 5000], "File name too long"),
        (["model=~no-such-user/x"], "model: ~no-such-user/x: no such folder"),
    ],
)
def test_what_is_not_there_or_of_another_kind_is_told(complaint, words, says):
    assert says in complaint(*words)


def test_an_adapter_must_be_a_peft_folder(complaint, load, model, tmp_path):
    (tmp_path / "a").mkdir()
    assert "adapter: a: not a PEFT adapter: no adapter_config.json in it\n  the folder is empty" in complaint(
        "prompt=x", "adapter=a", recipe="generate"
    )
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": str(model)}
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    assert "no adapter_model.safetensors in it" in complaint("prompt=x", "model=a", recipe="generate")
    (tmp_path / "a" / "adapter_model.safetensors").touch()
    check_inputs(load("prompt=x", "model=a", recipe="generate"))
    check_inputs(load("prompt=x", "adapter=a", recipe="generate"))
    config["base_model_name_or_path"] = "gone"
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    assert "the adapter's base model gone is not here" in complaint("prompt=x", "model=a", recipe="generate")
