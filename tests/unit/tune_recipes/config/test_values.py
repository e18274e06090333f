"""Values of the wrong kind, missing values, rules between options, and where each value came from."""

import msgspec
import pytest

from tune_recipes.options import list_options

GIVEN = "model: m\ndata: {path: d}\n"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("optim.lr=fast", "optim.lr: expected a number > 0, got 'fast' (from optim.lr=fast)"),
        ("optim.lr=0", "expected a number > 0, got 0"),
        ("optim.lr=true", "expected a number > 0, got true"),
        ("optim.lr=", "expected a number > 0, got nothing"),
        ("optim.lr=.nan", "expected a number > 0, got .nan"),
        ("optim.lr=[1]", "expected a number > 0, got [1]"),
        ("batch_size=1.5", "batch_size: expected a whole number >= 1, got 1.5"),
        ("batch_size=0", "expected a whole number >= 1, got 0"),
        ("seed=4294967296", "expected a whole number >= 0 and <= 4294967295, got 4294967296"),
        ("max_steps=x", "max_steps: expected a whole number >= 1, got 'x'"),
        ("data.shuffle=1", "data.shuffle: expected true or false, got 1"),
        ("dtype=fp8", "dtype: expected one of auto, fp32, bf16, got 'fp8' (from dtype=fp8)"),
        ("optim.name=adam", "did you mean adamw?"),
        ("optim.betas=[0.9]", "optim.betas: expected a list of 2 numbers >= 0 and < 1, got [0.9]"),
        ("optim.betas=[0.9, 2]", "expected a list of 2 numbers >= 0 and < 1, got [0.9, 2]"),
        ("optim.betas=0.8,0.9", "a list stands in brackets: [0.8,0.9]"),
        ("data.column_map=x", "data.column_map: expected a mapping of names to text, got 'x'"),
        ("data.column_map=[a]", "expected a mapping of names to text, got"),
        (
            "data.column_map={output: 7}",
            'got {"output":7} (from data.column_map={output: 7})\n  put it in quotes',
        ),
    ],
)
def test_a_wrong_value_says_what_was_expected_what_came_and_from_where(refusal, word, says):
    assert says in refusal(word)


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("seed: x\n", "seed: expected a whole number >= 0 and <= 4294967295, got 'x' (from c.yaml:3)"),
        ("seed: null\n", "got nothing (from c.yaml:3)"),
        ("output_dir: 007\n", "output_dir: expected text, got 7 (from c.yaml:3)\n  put it in quotes"),
        ("output_dir: yes\n", "output_dir: expected text, got true"),
        ("output_dir: [a]\n", "output_dir: expected text, got"),
        ("optim:\n  name: no\n", "optim.name: expected one of adamw, sgd, got false (from c.yaml:4)"),
        ("optim:\n  betas: [.9, x]\n", "optim.betas: expected a list of 2 numbers >= 0 and < 1"),
    ],
)
def test_a_wrong_value_in_a_file_says_the_line(refusal, yaml, says):
    assert says in refusal(yaml=GIVEN + yaml)


def test_several_wrong_values_are_told_at_once(refusal):
    message = refusal("optim.lr=fast", "batch_size=0", "dtype=fp8", yaml=f"{GIVEN}seed: x\n")
    assert {line.partition(":")[0] for line in message.splitlines()} == {
        "optim.lr",
        "batch_size",
        "dtype",
        "seed",
    }


def test_what_must_be_given_is_told_with_what_it_is(load, refusal):
    message = refusal(yaml="")
    assert message.splitlines()[0] == "model: must be given, as model=FOLDER"
    assert message.splitlines()[2] == "data.path: must be given, as data.path=FILE"
    assert "JSON or JSONL file" in message
    assert refusal("~model").startswith("model: must be given")
    assert refusal("shape.hidden_size=8", "init=random").startswith("shape.intermediate_size, ")


def test_a_number_that_json_has_not_reaches_the_recipe(load):
    assert load("optim.max_grad_norm=.inf").config.optim.max_grad_norm == float("inf")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["num_attention_heads: 3, num_key_value_heads: 1"], "shape.hidden_size must be a multiple of"),
        (
            ["num_attention_heads: 4, num_key_value_heads: 3"],
            "must be a multiple of shape.num_key_value_heads",
        ),
    ],
)
def test_rules_between_options_speak_in_their_own_words(refusal, words, says):
    shape = f"{{hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, {words[0]}}}"
    message = refusal(yaml=f"{GIVEN}init: random\nshape: {shape}\n")
    assert message.startswith("c.yaml: shape.")
    assert says in message
    assert "$" not in message


def test_a_rule_that_the_command_line_broke_names_its_words(refusal):
    heads = "num_attention_heads num_key_value_heads"
    sizes = f"hidden_size intermediate_size num_hidden_layers {heads}".split()
    shape = "{" + ", ".join(f"{size}: 1" for size in sizes) + "}"
    message = refusal("init=checkpoint", yaml=f"{GIVEN}init: random\nshape: {shape}\n")
    assert message.startswith("c.yaml with init=checkpoint: shape is for a model that starts from scratch")


def test_each_value_knows_where_it_came_from(load):
    loaded = load("--seed", "7", "optim={lr: 3}", yaml=f"{GIVEN}batch_size: 5\noptim:\n  eps: 1\n")
    origins = {path: str(origin) for path, origin in loaded.origins.items()}
    assert origins["seed"] == "command line: --seed 7"
    assert origins["optim.lr"] == "command line: optim={lr: 3}"
    assert origins["optim.eps"] == "c.yaml:5"
    assert origins["optim.betas"] == "default"
    assert origins["data.path"] == "c.yaml:2"
    assert origins["batch_size"] == "c.yaml:3"
    assert origins["epochs"] == "default"


def test_a_reset_value_comes_from_the_default(load):
    yaml = f"{GIVEN}seed: 3\noptim: {{lr: 3, eps: 4}}\n"
    origins = load("~seed", "optim=null", yaml=yaml).origins
    assert {str(origins[path]) for path in ("seed", "optim.lr", "optim.eps")} == {"default"}


def test_entries_of_a_mapping_have_origins_of_their_own(load):
    yaml = "model: m\ndata:\n  path: d\n  column_map:\n    output: a\n"
    origins = load("data.column_map.input=b", yaml=yaml).origins
    assert str(origins["data.column_map.output"]) == "c.yaml:5"
    assert str(origins["data.column_map.input"]) == "command line: data.column_map.input=b"
    assert "data.column_map" not in origins
    origins = load("data.column_map={input: b}", "~data.column_map.output", yaml=yaml).origins
    assert [path for path in origins if "column_map" in path] == ["data.column_map.input"]
    assert str(load("data.column_map=null", yaml=yaml).origins["data.column_map"]) == "default"


def test_every_option_has_an_origin_and_groups_have_none(load):
    loaded = load()
    assert {"model", "optim.lr", "data.path", "checkpoint.save_every"} <= set(loaded.origins)
    assert not {"optim", "data", "shape"} & set(loaded.origins)


@pytest.mark.parametrize("recipe", ["full", "lora"])
def test_defaults_are_those_of_the_struct(load, configs, recipe):
    struct = msgspec.convert({"model": "m", "data": {"path": "d"}}, getattr(configs, recipe))
    assert load(recipe=recipe).config == struct
    assert {option.path: option.default for option in list_options(configs.lora)}["optim.lr"] == 2e-4
