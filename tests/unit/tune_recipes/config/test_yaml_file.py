"""Config files: what YAML may say, and how its mistakes are told."""

import pytest
import yaml as pyyaml

from tune_recipes.config import load_config
from tune_recipes.errors import UserError
from tune_recipes.yaml_file import dump_yaml

GIVEN = "model: m\ndata: {path: d}\n"


def test_numbers_without_a_point_are_numbers(load):
    assert load(yaml=f"{GIVEN}optim: {{lr: 2e-5, eps: 1E-3}}\n").config.optim.lr == 2e-5


@pytest.mark.parametrize("empty", ["", "# a comment\n", "---\n"])
def test_an_empty_file_says_nothing(load, empty):
    assert load("model=m", "data.path=d", yaml=empty).config.seed == 42


def test_a_group_with_everything_commented_out_says_nothing(load):
    assert load(yaml=f"{GIVEN}optim:\n  # lr: 3\n").config.optim.lr == 2e-5


def test_an_optional_group_may_be_null(load):
    assert load(yaml=f"{GIVEN}shape: null\nmax_steps: ~\n").config.shape is None


def test_other_line_ends_and_a_byte_order_mark_are_read(load):
    assert load(yaml=GIVEN.replace("\n", "\r\n")).config.model == "m"
    assert load(yaml=f"\ufeff{GIVEN}").config.model == "m"


def test_anchors_and_merge_keys_are_read(load):
    loaded = load(yaml=f"{GIVEN}seed: &n 3\nbatch_size: *n\noptim:\n  <<: {{lr: 4}}\n")
    assert (loaded.config.batch_size, loaded.config.optim.lr) == (3, 4)
    assert str(loaded.origins["optim.lr"]) == "c.yaml:6"
    assert not [path for path in loaded.origins if "<" in path]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${model}/x", "m/x"),
        ("${data.path}", "d"),
        ("a ${seed} b", "a 42 b"),
        (r"\${model}", "${model}"),
        (r"\???", "???"),
        ("${oc.env:NO_SUCH_VARIABLE,x}", "x"),
    ],
)
def test_interpolation_sees_the_file_and_the_defaults(load, text, value):
    assert load(yaml=f"{GIVEN}output_dir: '{text}'\n").config.output_dir == value


def test_interpolation_sees_the_command_line_and_keeps_its_type(load):
    yaml = (
        "model: ???\ndata: {path: d}\noutput_dir: ${model}/runs\nbatch_size: ${seed}\noptim:\n  eps: ${.lr}\n"
    )
    config = load("model=other", "seed=7", "optim.lr=3", yaml=yaml).config
    assert (config.output_dir, config.batch_size, config.optim.eps) == ("other/runs", 7, 3)


def test_text_of_the_command_line_is_not_interpolated_through_the_file(load):
    assert load("model=${seed}", yaml="model: x\ndata: {path: '${model}'}\n").config.data.path == "${seed}"


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("seed: ${nope}\n", "seed: ${nope} refers to an option that does not exist (from c.yaml:3)"),
        ("optim:\n  lr: ${lr}\n", "does not exist; did you mean optim.lr? (from c.yaml:4)"),
        (
            "seed: ${shape.hidden_size}\n",
            "refers to an option that has no value; give it, as shape.hidden_size=VALUE",
        ),
        ("seed: ${epochs}\nepochs: ${seed}\n", "Recursive interpolation"),
        ("seed: ${nope:3}\n", "seed: Unsupported interpolation type nope (from c.yaml:3)"),
        ("output_dir: ${oc.env:NO_SUCH_VARIABLE}\n", "NO_SUCH_VARIABLE"),
        ("output_dir: '${'\n", "c.yaml: not valid YAML"),
        ("optim: ${data}\n", "c.yaml:3: optim: expected options (name, lr, betas, ...), got '${data}'"),
    ],
)
def test_an_interpolation_that_leads_nowhere_is_told_with_its_line(refusal, yaml, says):
    assert says in refusal(yaml=GIVEN + yaml)


def test_an_open_value_must_come_from_the_command_line(load, refusal):
    yaml = "model: ???\ndata:\n  path: ???\n"
    assert load("model=a", "data.path=b", yaml=yaml).config.model == "a"
    assert refusal("data.path=b", yaml=yaml) == (
        "c.yaml leaves model open; give it on the command line, as model=FOLDER\n"
        "  Folder of a Hugging Face checkpoint: config.json, safetensors, tokenizer.json."
    )
    assert "leaves model, data.path open" in refusal(yaml=yaml)
    assert "as model=FOLDER data.path=FILE" in refusal(yaml=yaml)
    assert refusal("~model", "data.path=b", yaml=yaml).startswith("model: must be given, as model=FOLDER")


def test_an_open_value_that_is_reset_takes_its_default(load):
    assert load("~seed", yaml=f"{GIVEN}seed: ???\n").config.seed == 42


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("a: b: c", "c.yaml:1:5: not valid YAML: mapping values are not allowed"),
        ("model: m\n  x: y", "c.yaml:2:4: not valid YAML"),
        ("model: [", "c.yaml:1:9: not valid YAML"),
        ('model: "x', "c.yaml:1:10: not valid YAML"),
        ("optim:\n\tlr: 3", "c.yaml:2:1: not valid YAML"),
        ("optim:\n\tlr: 3", "indented with spaces, not tabs"),
        ("model: m\nmodel: n\n", "c.yaml:2:1: not valid YAML: found duplicate key model"),
        ("optim: {lr: 1, lr: 2}", "found duplicate key lr"),
        ("seed: *a\n", "c.yaml:1:7: not valid YAML: found undefined alias"),
        ("model: &m\n  - *m\n", "recursive"),
        (
            "seed: !!python/object:os.system 3\n",
            "c.yaml:1:7: not valid YAML: could not determine a constructor",
        ),
        ("model: m\n---\nmodel: n\n", "c.yaml:2:1: not valid YAML"),
        ("optim: {lr: ${seed}}\n", "between braces, ${...} and ??? need quotes"),
        ("data: {path: ???}\n", "between braces, ${...} and ??? need quotes"),
        ("a\0b", "c.yaml: not valid YAML"),
        (b"model: m\nseed: \xff\n", "c.yaml:2: not UTF-8 text; save the file as UTF-8"),
        ("- a\n", "c.yaml:1: a config is a mapping of options to values"),
        ("\n\n[]", "c.yaml:3: a config is a mapping"),
        ("3", "c.yaml:1: a config is a mapping"),
        ("words", "c.yaml:1: a config is a mapping"),
        ("null", "c.yaml:1: a config is a mapping"),
        ("1: 2\n", "c.yaml:1: 1: a name is expected here"),
        (
            "model: m\nyes: 2\n",
            "c.yaml:2: yes: a name is expected here, and YAML reads this as something else",
        ),
        ("null: 2\n", 'in quotes it is a name: "null"'),
        ("data: {column_map: {1: a}}\n", "c.yaml:1: 1: a name is expected here"),
    ],
    ids=repr,
)
def test_a_file_that_is_no_config_is_told_with_the_line(refusal, yaml, says):
    assert says in refusal(yaml=yaml)


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("sede: 3\n", "c.yaml:3: sede: no such option; did you mean seed?"),
        ("optim:\n  lrr: 3\n", "c.yaml:4: optim.lrr: no such option; did you mean optim.lr?"),
        ("lr: 3\n", "c.yaml:3: lr: no such option; did you mean optim.lr?"),
        ("output-dir: x\n", "c.yaml:3: output-dir: no such option; did you mean output_dir?"),
        ("optim.lr: 3\n", "c.yaml:3: optim.lr: in a file it stands in its group, as `optim: {lr: ...}`"),
        ("optim: 3\n", "c.yaml:3: optim: expected options (name, lr, betas, ...), got 3"),
        ("optim: [1]\n", "c.yaml:3: optim: expected options (name, lr, betas, ...), got [1]"),
        ("shape: {hidden: 3}\n", "c.yaml:3: shape.hidden: no such option; did you mean shape.hidden_size?"),
        ("zzz: 3\n", "c.yaml:3: zzz: no such option"),
    ],
)
def test_a_name_that_is_no_option_is_told_with_the_line(refusal, yaml, says):
    assert refusal(yaml=GIVEN + yaml) == says


def test_a_group_of_the_wrong_kind_is_told_even_if_the_command_line_sets_something_in_it(refusal):
    assert "optim: expected options" in refusal("optim.lr=5", yaml=f"{GIVEN}optim: 3\n")


def test_all_unknown_names_are_told_at_once(refusal):
    message = refusal(yaml=f"{GIVEN}optim: {{lrr: 1}}\nsede: 3\n")
    assert [line.partition(" ")[0] for line in message.splitlines()] == ["c.yaml:3:", "c.yaml:4:"]


def test_a_file_that_may_not_be_read_is_told(configs, tmp_path):
    from tune_recipes.config import load_config
    from tune_recipes.errors import UserError

    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_config(configs.full, tmp_path)


@pytest.mark.parametrize(
    ("yaml", "unknown"),
    [("optim: 5\n", None), ("optim.lr: 1\n", None), ("lora: {rank: 3}\noptim: 5\n", ("lora",))],
)
def test_only_names_that_do_not_exist_count_as_unknown(load, yaml, unknown):
    with pytest.raises(UserError) as error:
        load(yaml=yaml)
    assert getattr(error.value, "paths", None) == unknown


def test_open_values_are_kept_for_who_only_shows_them(configs, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("model: ???\ndata: {path: d}\nbatch_size: 3\noptim:\n  lr: ???\noutput_dir: \\???\n")
    loaded = load_config(configs.full, file, keep_open=True)
    assert loaded.left_open == ("model", "optim.lr")
    shown = pyyaml.safe_load(dump_yaml(loaded.tree(), loaded.left_open))
    assert (shown["model"], shown["optim"]["lr"], shown["output_dir"]) == ("???", "???", "\\???")
    with pytest.raises(UserError, match=r"leaves optim\.lr open"):
        load_config(configs.full, file, ["model=m"])
    with pytest.raises(UserError, match="epochs: expected"):
        load_config(configs.full, file, ["epochs=x"], keep_open=True)
