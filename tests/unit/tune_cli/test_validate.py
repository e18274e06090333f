"""`tune validate` checks a config against its recipe, and that what it names exists."""

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
            "mine.yaml: for which recipe? Its name does not end in one's; give the recipe after it",
        ),
        (["mine.yaml", "nope"], "nope: no such recipe"),
        (["mine.yaml", "full_finetune"], "model: nope: no such folder\n  (set by mine.yaml:1)"),
        (["mine.yaml", "full_finetune", "model=builtin:demo", "init=random"], "builtin:demo/config.json"),
        (["demo_full_finetune", "data.path=nope.jsonl"], "data.path: nope.jsonl: no such file in "),
        (["demo_full_finetune", "--sede", "3"], "sede: no such option (from --sede); did you mean seed?"),
        (["demo_generate"], "demo_generate.yaml leaves model open"),
        (["demo_full_finetune", "--resolved"], "resolved: no such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_with_a_config_is_told(refused, tmp_path, words, says):
    (tmp_path / "mine.yaml").write_text("model: nope\ndata: {path: nope}\n")
    said = refused("validate", *words)
    assert says in said or ("config.json" in says and "no config.json in it" in said)


@pytest.mark.parametrize("config", ["demo_lora_finetune", "alpaca_llama2_lora_finetune"])
def test_a_lora_config_on_a_full_recipe_says_so(refused, config):
    if config.startswith("alpaca"):
        config_words = [config, "full_finetune", "lora.rank=4"]
        assert "it is an option of lora_finetune, not of full_finetune" in refused("validate", *config_words)
        return
    assert refused("validate", config, "full_finetune") == (
        "demo_lora_finetune.yaml is a config for lora_finetune, not for full_finetune:\n"
        "  demo_lora_finetune.yaml:9: lora: no such option\n"
        "  run it with `tune run lora_finetune --config demo_lora_finetune`"
    )


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
