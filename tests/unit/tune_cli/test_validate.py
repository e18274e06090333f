"""`tune validate` checks a config against its recipe, and that what it names exists."""

import shutil
from pathlib import Path

import pytest

from tune_recipes.catalog import CONFIGS


@pytest.mark.parametrize("words", [["demo_full_finetune"], ["demo_full_finetune.yaml", "full_finetune.py"]])
def test_a_valid_config_is_told_in_one_line(tune_here, words):
    assert tune_here("validate", *words) == (0, "demo_full_finetune.yaml is valid for full_finetune.py\n", "")


def test_overrides_count(tune_here, refused):
    assert tune_here("validate", "demo_full_finetune", "optim.lr=1e-4", "--seed", "3").code == 0
    assert "optim.lr: expected a number > 0, got -1" in refused(
        "validate", "demo_full_finetune", "optim.lr=-1"
    )


def test_the_recipe_is_known_from_the_name_of_your_own_config(tune_here):
    demo = (CONFIGS / "full_finetune" / "demo_full_finetune.yaml").read_text()
    Path("mine_full_finetune.yaml").write_text(demo)
    Path("mine.yaml").write_text(demo)
    assert tune_here("validate", "mine_full_finetune.yaml").code == 0
    assert tune_here("validate", "mine.yaml", "full_finetune").code == 0
    assert tune_here("validate", "mine.yaml", "optim.lr=1", "full_finetune").code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "CONFIG is missing"),
        (["nope"], "nope: no such config"),
        (
            ["mine.yaml"],
            "mine.yaml: for which recipe? Its name does not end in one's; give the recipe too",
        ),
        (["mine.yaml", "nope"], "nope: no such recipe"),
        (["mine.yaml", "full_finetune"], "model: nope: no such folder\n  (set by mine.yaml:1)"),
        (["mine.yaml", "full_finetune", "model=builtin:demo", "init=random"], "builtin:demo/config.json"),
        (["demo_full_finetune", "data.path=nope.jsonl"], "data.path: nope.jsonl: no such file in "),
        (["demo_full_finetune", "--sede", "3"], "sede: no such option (from --sede); did you mean seed?"),
        (["demo_generate"], "demo_generate.yaml leaves model open"),
        (["demo_full_finetune", "batch_size"], "batch_size: a value must follow, as in `batch_size=VALUE`"),
        (["mine.yaml", "max-steps", "full_finetune"], "max-steps: a value must follow"),
        (["optim.yaml", "full_finetune"], "optim.yaml:1: optim: expected options"),
        (["dotted.yaml", "full_finetune"], "dotted.yaml:1: optim.lr: in a file it stands in its group"),
        (
            ["demo_full_finetune", "data.path=builtin:/etc/hostname"],
            "data.path: builtin:/etc/hostname does not",
        ),
        (["demo_full_finetune", "--resolved"], "resolved: no such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_with_a_config_is_told(refused, tmp_path, words, says):
    (tmp_path / "mine.yaml").write_text("model: nope\ndata: {path: nope}\n")
    (tmp_path / "optim.yaml").write_text("optim: 5\n")
    (tmp_path / "dotted.yaml").write_text("optim.lr: 1\n")
    said = refused("validate", *words)
    assert says in said or ("config.json" in says and "no config.json in it" in said)
    assert "is a config for" not in said


@pytest.mark.parametrize("config", ["demo_lora_finetune", "alpaca_llama2_lora_finetune"])
def test_a_lora_config_on_a_full_recipe_says_so_though_it_has_all_its_options(refused, config):
    said = (
        f"{config}.yaml is a config for lora_finetune, not for full_finetune\n"
        f"  run it with `tune run lora_finetune --config {config}`"
    )
    assert refused("validate", config, "full_finetune", "lora.rank=4") == said
    assert refused("run", "full_finetune", "--config", config) == said
    shutil.copy(CONFIGS / "lora_finetune" / f"{config}.yaml", "mine_lora_finetune.yaml")
    assert refused("validate", "mine_lora_finetune.yaml", "full_finetune") == (
        "mine_lora_finetune.yaml is a config for lora_finetune, not for full_finetune\n"
        "  run it with `tune run lora_finetune --config mine_lora_finetune.yaml`"
    )


def test_a_recipe_with_a_name_of_its_own_takes_any_config_and_one_under_a_built_in_name_its_own(
    tune_here, refused, trained
):
    words = [
        "alpaca_llama2_lora_finetune",
        "mine.py",
        f"model={trained}",
        "data.path=builtin:demo/capitals.jsonl",
    ]
    tune_here("cp", "full_finetune", "mine.py")
    assert tune_here("validate", *words).code == 0
    tune_here("cp", "full_finetune", "lora_finetune.py")
    assert "is a config for full_finetune, not for lora_finetune" in refused(
        "validate", "demo_full_finetune", "lora_finetune.py"
    )


def test_an_option_of_another_recipe_is_told_as_that(refused):
    said = refused("validate", "demo_full_finetune", "lora.rank=4")
    assert "it is an option of lora_finetune, not of full_finetune" in said


def test_a_lora_config_of_your_own_on_a_full_recipe_says_so(refused, tmp_path):
    (tmp_path / "my config.yaml").write_text("lora: {rank: 3}\nseed: 4\n")
    assert refused("validate", "my config.yaml", "full_finetune") == (
        "my config.yaml is a config for lora_finetune, not for full_finetune:\n"
        "  my config.yaml:1: lora: no such option\n"
        "  run it with `tune run lora_finetune --config 'my config.yaml'`"
    )


def test_a_misspelt_option_is_not_taken_for_another_recipes(refused, tmp_path):
    (tmp_path / "c.yaml").write_text("lrr: 3\n")
    assert refused("validate", "c.yaml", "full_finetune") == "c.yaml:1: lrr: no such option"


def test_a_wrong_value_with_a_copied_recipe_is_told_as_that(refused, tune_here):
    tune_here("cp", "full_finetune", "mine.py")
    message = refused("validate", "demo_full_finetune", "mine.py", "optim.lr=fast")
    assert message == "optim.lr: expected a number > 0, got 'fast' (from optim.lr=fast)"
