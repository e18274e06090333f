"""Bad input: exit status 2, a message of what, where and next; no traceback, nothing written, no torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tune_recipes.catalog import ROOT

DEMO = ["run", "full_finetune", "--config", "demo_full_finetune"]
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}


@pytest.fixture
def workplace(tmp_path) -> Path:
    """A folder with what is nearly right."""
    (tmp_path / "misspelt.yaml").write_text("model: m\ndata:\n  path: d\noptim:\n  lrr: 3\n")
    (tmp_path / "own_lora.yaml").write_text("model: m\ndata: {path: d}\nlora: {rank: 4}\n")
    (tmp_path / "there.py").write_text("mine\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(GPT2))
    shutil.copy(ROOT / "builtin" / "demo" / "tokenizer.json", tmp_path / "gpt2")
    return tmp_path


CASES = {
    "unknown command": (
        ["rnu"],
        "rnu: no such command; did you mean run?\n  `tune --help` lists the commands",
    ),
    "a recipe as a command": (["generate"], "generate: no such command; it is a recipe: `tune run generate`"),
    "a config as a command": (
        ["demo_generate"],
        "it is a config: `tune run generate --config demo_generate`",
    ),
    "unknown option of tune": (["--vresion"], "--vresion: no such option; did you mean --version?"),
    "help on an unknown command": (["help", "rnu"], "rnu: no such command; did you mean run?"),
    "help on an unknown command, dashed": (["--help", "rnu"], "rnu: no such command; did you mean run?"),
    "help on two commands": (
        ["help", "run", "cp"],
        "cp: not understood\n  `tune run --help` shows what run takes",
    ),
    "an empty command": ([""], "'': no such command"),
    "unknown recipe": (["run", "lora_finetun"], "did you mean lora_finetune?\n  `tune ls` lists the recipes"),
    "unknown config": (
        ["run", "full_finetune", "--config", "demo_full_finetun"],
        "did you mean demo_full_finetune?\n  `tune ls` lists them",
    ),
    "unknown option, near a config key": ([*DEMO, "--sede", "3"], "(from --sede); did you mean seed?"),
    "unknown option, near a command's": (
        ["run", "full_finetune", "--cofnig", "x"],
        "cofnig: no such option (from --cofnig); did you mean --config?",
    ),
    "unknown option, near nothing": ([*DEMO, "zzz=3"], "`tune run full_finetune --help` lists the options"),
    "misspelt key in a file": (
        ["run", "full_finetune", "--config", "misspelt.yaml"],
        "misspelt.yaml:5: optim.lrr: no such option; did you mean optim.lr?",
    ),
    "misspelt key on the command line": (
        [*DEMO, "--optim.lrr=3"],
        "optim.lrr: no such option (from --optim.lrr=3); did you mean optim.lr?",
    ),
    "wrong type": (
        [*DEMO, "optim.lr=fast"],
        "optim.lr: expected a number > 0, got 'fast' (from optim.lr=fast)",
    ),
    "LoRA config on a full recipe": (
        ["run", "full_finetune", "--config", "demo_lora_finetune"],
        "demo_lora_finetune.yaml is a config for lora_finetune, not for full_finetune",
    ),
    "own LoRA config on a full recipe": (
        ["run", "full_finetune", "--config", "own_lora.yaml"],
        "run it with `tune run lora_finetune --config own_lora.yaml`",
    ),
    "missing model folder": (
        ["run", "generate", "model=models/llama2", "prompt=x"],
        "model: models/llama2: no such folder\n  (set by model=models/llama2)\n"
        "  to get it: `tune download llama2`\n"
        "  or, from a GGUF file: `tune convert-ckpt FILE.gguf --output-dir models/llama2`",
    ),
    "missing model folder elsewhere": (
        ["run", "generate", "model=elsewhere/llama2", "prompt=x"],
        "  to get it: `tune download llama2 --output-dir elsewhere/llama2`\n",
    ),
    "missing model folder of no known name": (
        ["run", "generate", "model=models/mine", "prompt=x"],
        "  to get it: `tune download ORGANISATION/MODEL --output-dir models/mine`\n",
    ),
    "missing model folder of a shipped config": (
        ["run", "full_finetune.py", "--config", "alpaca_llama2_full_finetune.yaml"],
        "(set by alpaca_llama2_full_finetune.yaml:",
    ),
    "folder without config.json": (["run", "generate", "model=folder", "prompt=x"], "no config.json in it"),
    "unsupported architecture": (
        ["run", "generate", "model=gpt2", "prompt=x"],
        "GPT2LMHeadModel is not supported; supported are LlamaForCausalLM, MistralForCausalLM",
    ),
    "missing data file": ([*DEMO, "data.path=nope.jsonl"], "data.path: nope.jsonl: no such file in "),
    "cp onto a file that is there": (
        ["cp", "generate", "there.py"],
        "there.py is there already\n  --force replaces",
    ),
    "no recipe": (
        ["run"],
        "RECIPE is missing: `tune ls` lists the recipes\n  to get started: `tune run full_finetune",
    ),
    "no recipe but a config": (
        ["run", "--config", "demo_generate", "model=a b"],
        "RECIPE is missing: `tune run generate --config demo_generate 'model=a b'`",
    ),
    "a recipe without its model": (
        ["run", "lora_finetune"],
        "model: must be given, as model=FOLDER\n",
    ),
    "how to start from a config": (["run", "generate"], "`tune ls generate` lists those of generate"),
    "--config without value": (["run", "full_finetune", "--config"], "--config: a value must follow"),
    "--config with an empty value": (["run", "full_finetune", "--config="], "'': no such config"),
    "--config twice": ([*DEMO, "--config", "x"], "--config: given twice"),
    "a folder as a config": (
        ["run", "full_finetune", "--config", "folder"],
        "it is a folder; a config is a YAML",
    ),
    "a folder as a recipe": (["run", "folder"], "it is a folder; a recipe is a Python file, as mine.py"),
    "a config as a recipe": (["run", "misspelt.yaml"], "misspelt.yaml is a config, not a recipe"),
    "resume on a folder that is no run": (
        ["run", "--resume", "folder"],
        "folder: not a run folder: no run.json in it",
    ),
    "resume on a folder that is not there": (
        ["run", "--resume", "nope"],
        "nope: not a run folder: no such folder",
    ),
    "unwritable output_dir": (
        [*DEMO, "output_dir=there.py/runs"],
        "output_dir: cannot write to there.py/runs: Not a directory\n  choose another with output_dir=FOLDER",
    ),
    "no source to convert": (
        ["convert-ckpt"],
        "SRC is missing\n  `tune convert-ckpt --help` shows what it takes",
    ),
    "a size that is none": (
        ["convert-ckpt", "x.gguf", "--max-shard-size", "big"],
        "'big' is no size; write 5GB, 500MB or a number of bytes",
    ),
    "quantisation of what is not quantised": (
        ["convert-ckpt", "x.gguf", "--quant", "q8_0"],
        "--quant q8_0: only a GGUF file is quantised; add --to gguf",
    ),
    "a quantisation that there is not": (
        ["convert-ckpt", "x.gguf", "--to", "gguf", "--quant", "q9"],
        "--quant q9: no such type; one of f32, f16, bf16, ",
    ),
    "a size of one file": (
        ["convert-ckpt", "x.gguf", "--to", "gguf", "--max-shard-size", "1GB"],
        "--max-shard-size 1GB with --to gguf: that is one file; leave it out",
    ),
    "two types of the weights": (
        ["convert-ckpt", "x.gguf", "--to", "gguf", "--dtype", "fp16", "--quant", "q8_0"],
        "--dtype fp16 with --quant q8_0: both say what the weights become; leave one out",
    ),
    "no threads": (["diff", "a", "b", "-j", "0"], "--jobs 0: a number from 1 to 32 is wanted"),
    "nothing to inspect": (["inspect", "nowhere"], "nowhere: no such file or folder"),
    "a dtype that there is not": (
        ["convert-ckpt", "x.gguf", "--output-dir", "o", "--dtype", "fp8"],
        "--dtype: expected one of fp32, fp16, bf16, got 'fp8'",
    ),
    "a GGUF file that is not there": (
        ["convert-ckpt", "x.gguf", "--output-dir", "o"],
        "x.gguf: no such file or folder",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_told_before_anything_is_written(refused, workplace, case):
    words, says = CASES[case]
    message = refused(*words)
    assert says in message
    assert len(message.splitlines()) <= 5


ONE_AFTER_ANOTHER = """
import json, sys
from tune_cli.entry import main
for words in json.load(sys.stdin):
    sys.argv[1:] = words
    print(words, main(), sorted(HEAVY & sys.modules.keys()))
"""


def test_bad_input_is_told_before_anything_heavy_is_loaded(workplace):
    heavy = {"torch", "numpy", "safetensors", "tokenizers", "transformers"}
    commands = [words for words, _ in CASES.values()]
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {heavy}{ONE_AFTER_ANOTHER}"],
        input=json.dumps(commands),
        cwd=workplace,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [f"{words} 2 []" for words in commands], done.stderr


def test_an_output_dir_that_may_not_be_written_is_told(tune, workplace):
    (workplace / "closed").mkdir()
    (workplace / "closed").chmod(0o500)
    if os.access(workplace / "closed", os.W_OK):
        pytest.skip("this user may write everywhere")
    done = tune(*DEMO, "output_dir=closed")
    assert done.code == 2
    assert "output_dir: cannot write to closed: Permission denied" in done.err


def test_an_adapter_whose_base_is_gone_is_told_before_torch_is_loaded(tune, workplace):
    adapter = workplace / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "gone"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    done = tune("run", "generate", "model=adapter", "prompt=Hi")
    assert done.code == 2
    assert "the adapter's base model gone is not here" in done.err
    assert "model=FOLDER" in done.err
    assert "torch" not in done.modules
