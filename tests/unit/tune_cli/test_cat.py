"""`tune cat` prints a config, every value that it leads to, or where each came from."""

import json
from pathlib import Path

import pytest

from tune_recipes.catalog import CONFIGS, RECIPES
from tune_recipes.config import load_config
from tune_recipes.recipe_source import read_config_class

DEMO = CONFIGS / "full_finetune" / "demo_full_finetune.yaml"
FULL = read_config_class(RECIPES / "full_finetune.py")


def test_a_config_is_printed_as_it_stands(tune_here):
    assert tune_here("cat", "demo_full_finetune") == (0, DEMO.read_text(encoding="utf-8"), "")
    Path("mine é.yaml").write_text("# é\nseed: 3", encoding="utf-8")
    assert tune_here("cat", "mine é.yaml").out == "# é\nseed: 3"


def test_every_value_is_printed_and_reads_back_the_same(tune_here):
    out = tune_here("cat", "demo_full_finetune", "--resolved", "optim.lr=1e-4", "--seed", "7").out
    Path("resolved.yaml").write_text(out, encoding="utf-8")
    before = load_config(FULL, DEMO, ["optim.lr=1e-4", "seed=7"]).config
    assert load_config(FULL, Path("resolved.yaml")).config == before
    assert tune_here("cat", "resolved.yaml", "full_finetune", "--resolved").out == out


@pytest.mark.parametrize(
    "text",
    [
        "${x}",
        "\\${x}",
        "yes",
        "007",
        "#1",
        "2e-5",
        "a: b",
        "two\nlines",
        "it's",
        'say "x"',
        "",
        "???",
        "null ",
        "é",
    ],
)
def test_any_text_reads_back_the_same(tune_here, text):
    out = tune_here("cat", "demo_full_finetune", "--resolved", f"output_dir={text}").out
    Path("resolved.yaml").write_text(out, encoding="utf-8")
    assert load_config(FULL, Path("resolved.yaml")).config.output_dir == text


def test_an_override_alone_asks_for_every_value(tune_here):
    words = ["cat", "demo_full_finetune", "optim.lr=1e-4"]
    assert tune_here(*words).out == tune_here(*words, "--resolved").out


def test_a_recipe_of_your_own_is_given_behind_the_config(tune_here):
    tune_here("cp", "full_finetune", "mine.py")
    source = Path("mine.py").read_text().replace("    init: Literal", "    extra: int = 3\n    init: Literal")
    Path("mine.py").write_text(source)
    assert "\nextra: 3\n" in tune_here("cat", "demo_full_finetune", "mine.py").out
    assert "\nextra: 4\n" in tune_here("cat", "demo_full_finetune", "mine.py", "--extra", "4").out


def test_json_prints_the_file_or_every_value(tune_here):
    assert json.loads(tune_here("cat", "demo_full_finetune", "--json").out)["optim"] == {
        "lr": 3e-3,
        "weight_decay": 0,
    }
    assert json.loads(tune_here("cat", "demo_full_finetune", "--json", "--resolved").out)["seed"] == 42


def test_origins_tell_the_default_the_line_and_the_words(tune_here):
    words = ["demo_full_finetune", "--origins", "optim.lr=1e-4", "--seed", "7", "data.column_map.output=a"]
    lines = dict(line.split(": ", 1) for line in tune_here("cat", *words).out.splitlines())
    assert lines["optim.lr"].split("  # ") == [lines["optim.lr"][:30], "command line: optim.lr=1e-4"]
    assert lines["optim.lr"].startswith("0.0001 ")
    assert lines["seed"].endswith("# command line: --seed 7")
    assert lines["batch_size"].endswith("# demo_full_finetune.yaml:19")
    assert lines["epochs"].split()[0] == "60"
    assert lines["grad_accum_steps"].endswith("# default")
    assert lines["data.column_map.output"].startswith('"a" ')
    assert "data.column_map" not in lines


def test_origins_as_json_have_value_and_origin(tune_here):
    rows = json.loads(tune_here("cat", "demo_full_finetune", "--origins", "--json").out)
    assert rows["optim.lr"] == {"value": 0.003, "origin": "demo_full_finetune.yaml:15"}
    assert rows["seed"] == {"value": 42, "origin": "default"}


def test_a_value_that_is_open_is_shown_as_that(tune_here):
    words = ["cat", "demo_generate", "--seed=3"]
    assert "\nmodel: ???\n" in f"\n{tune_here(*words, '--resolved').out}"
    assert json.loads(tune_here(*words, "--json").out)["model"] == "???"
    rows = json.loads(tune_here(*words, "--origins", "--json").out)
    assert rows["model"] == {"value": "???", "origin": "demo_generate.yaml:3"}
    (line,) = [
        line for line in tune_here(*words, "--origins").out.splitlines() if "demo_generate.yaml:3" in line
    ]
    assert line.split() == ["model:", "???", "#", "demo_generate.yaml:3"]


def test_a_reset_entry_of_a_mapping_is_not_listed(tune_here):
    Path("c.yaml").write_text("model: m\ndata: {path: d, column_map: {a.b: x, c: y}}\n")
    out = tune_here("cat", "c.yaml", "full_finetune", "--origins", "~data.column_map.c").out
    assert 'data.column_map.a.b: "x"' in out
    assert "column_map.c" not in out


def test_infinity_is_shown_as_it_is_typed(tune_here):
    words = ["cat", "demo_full_finetune", "optim.max_grad_norm=.inf"]
    assert "max_grad_norm: .inf\n" in tune_here(*words).out
    assert "optim.max_grad_norm: .inf " in tune_here(*words, "--origins").out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "CONFIG is missing\n  `tune cat --help` shows what it takes"),
        (["nope"], "nope: no such config\n  `tune ls` lists them"),
        (["full_finetune"], "full_finetune is a recipe, not a config"),
        (["."], "it is a folder; a config is a YAML file"),
        ([""], "'': no such config"),
        (["c.yaml", "--resolved"], "for which recipe?"),
        (["broken.yaml", "--json"], "broken.yaml:1:5: not valid YAML"),
        (["latin.yaml"], "latin.yaml:1: not UTF-8 text"),
        (["my cfg.yaml", "--resolved"], "as in `tune cat 'my cfg.yaml' full_finetune`"),
        (["demo_full_finetune", "optim.lr"], "optim.lr: a value must follow, as in `optim.lr=VALUE`"),
        (
            ["demo_full_finetune", "--resolvd"],
            "resolvd: no such option (from --resolvd); did you mean --resolved?",
        ),
        (["demo_full_finetune", "full_finetune", "generate"], "generate: not understood"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cat_cannot_print_is_told(refused, tmp_path, words, says):
    (tmp_path / "c.yaml").write_text("seed: 3\n")
    (tmp_path / "my cfg.yaml").write_text("seed: 3\n")
    (tmp_path / "broken.yaml").write_text("a: b: c\n")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    assert says in refused("cat", *words)
