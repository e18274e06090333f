"""What each light path of `tune` imports: a bound on modules, so that start-up cannot creep."""

import pytest

from small_llama import small_weights, write_folder

HEAVY = {
    "torch",
    "omegaconf",
    "huggingface_hub",
    "httpx2",
    "numpy",
    "safetensors",
    "tokenizers",
    "transformers",
    "gguf",
}
PARSER = {
    "cyclopts",
    "msgspec",
    "rich",
    "argparse",
    "importlib.metadata",
    "importlib.resources",
    "json",
    "re",
    "pathlib",
}

PRINTED = [
    [],
    ["--help"],
    ["-h"],
    ["help"],
    ["--version"],
    ["-V"],
    ["ls"],
    ["ls", "--help"],
    ["cp", "--help"],
    ["cat", "-h"],
    ["help", "validate"],
    ["run", "--help"],
    ["launch", "--help"],
    ["run", "help"],
    ["convert-ckpt", "--help"],
    ["inspect", "--help"],
    ["diff", "--help"],
    ["download", "--help"],
    ["upload", "--help"],
]


def loaded_by_python_alone(tune) -> frozenset[str]:
    """Modules that the test's own way of starting brings along."""
    return tune("--version").modules


@pytest.mark.parametrize("words", PRINTED, ids=" ".join)
def test_what_is_only_printed_imports_nothing(tune, words):
    done = tune(*words)
    assert done.code == 0
    assert done.out
    assert not done.err
    assert not done.modules & (HEAVY | PARSER)
    ours = {name for name in done.modules if name.startswith("tune_")}
    assert ours <= {"tune_cli", "tune_cli.entry", "tune_cli.listing", "tune_recipes"}


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "--json"],
        ["ls", "full_finetune"],
        ["cp", "full_finetune", "mine.py"],
        ["cat", "demo_full_finetune"],
        ["nonsense"],
        ["cp"],
        ["ls", "--nonsense"],
        ["download", "--list"],
        ["download", "--list", "--json"],
        ["download", "lama2"],
    ],
    ids=" ".join,
)
def test_simple_commands_load_only_the_parser(tune, words):
    done = tune(*words)
    assert not done.modules & HEAVY


@pytest.mark.parametrize(
    "words",
    [
        ["cat", "demo_full_finetune", "--resolved"],
        ["validate", "demo_full_finetune"],
        ["run", "full_finetune", "--help"],
        ["run", "lora_finetune.py", "--help", "--config", "demo_lora_finetune"],
        ["run", "full_finetune", "--config", "demo_full_finetune", "optim.lr=fast"],
    ],
    ids=" ".join,
)
def test_configuration_never_imports_torch(tune, words):
    done = tune(*words)
    assert "omegaconf" in done.modules or "--help" in words
    assert not done.modules & (HEAVY - {"omegaconf"})


def test_inspecting_loads_no_numpy(tune, tmp_path):
    write_folder(tmp_path / "model", small_weights())
    for words in (
        ["inspect", "model"],
        ["inspect", "model", "--json"],
        ["convert-ckpt", "model", "--dry-run"],
    ):
        done = tune(*words)
        assert done.code == 0, done.err
        assert "tune_checkpoint" in done.modules
        assert not done.modules & HEAVY
