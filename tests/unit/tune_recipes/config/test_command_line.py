"""Options on the command line: how they are written, what wins, what goes back to the default."""

import pytest


def test_the_command_line_beats_the_file_and_the_file_beats_the_default(load):
    loaded = load("batch_size=5", yaml="model: m\ndata: {path: d}\nbatch_size: 3\nepochs: 4\n")
    assert (loaded.config.batch_size, loaded.config.epochs, loaded.config.seed) == (5, 4, 42)


@pytest.mark.parametrize(
    "words",
    [
        ["grad_accum_steps=3"],
        ["grad-accum-steps=3"],
        ["--grad_accum_steps=3"],
        ["--grad-accum-steps=3"],
        ["--grad_accum_steps", "3"],
        ["--grad-accum-steps", "3"],
    ],
    ids=" ".join,
)
def test_every_spelling_of_an_option_means_the_same(load, words):
    assert load(*words).config.grad_accum_steps == 3


@pytest.mark.parametrize(
    "words",
    [["optim.max-grad-norm=2"], ["--optim.max_grad_norm", "2"], ["optim={max_grad_norm: 2}"]],
    ids=" ".join,
)
def test_nested_options_are_reached_by_dots_or_as_a_group(load, words):
    config = load(*words).config
    assert config.optim.max_grad_norm == 2
    assert config.optim.lr == 2e-5


def test_the_last_of_several_wins(load):
    assert load("seed=1", "--seed", "2", "--seed=3", "seed=4").config.seed == 4
    assert load("optim.lr=1", "optim={lr: 2}").config.optim.lr == 2
    assert load("optim={lr: 2}", "optim.lr=1").config.optim.lr == 1


@pytest.mark.parametrize("reset", ["max_steps=null", "~max_steps", "~max-steps", "--max-steps=null"])
def test_null_and_tilde_go_back_to_the_default(load, reset):
    assert load(reset, yaml="model: m\ndata: {path: d}\nmax_steps: 9\n").config.max_steps is None
    assert load("max_steps=9", reset).config.max_steps is None
    assert load(reset, "max_steps=9").config.max_steps == 9


@pytest.mark.parametrize("reset", ["optim.lr=null", "~optim.lr", "optim=null", "~optim"])
def test_null_and_tilde_reset_below_a_group_and_a_whole_group(load, reset):
    yaml = "model: m\ndata: {path: d}\noptim: {lr: 3, eps: 4}\n"
    config = load(reset, yaml=yaml).config
    assert config.optim.lr == 2e-5
    assert config.optim.eps == (4 if "lr" in reset else 1e-8)


def test_reset_uses_the_default_of_the_recipe_not_of_the_group(load):
    assert load("optim.lr=1", "~optim.lr", recipe="lora").config.optim.lr == 2e-4
    assert load("optim.lr=1", "~optim", recipe="lora").config.optim.lr == 2e-4


def test_an_optional_group_can_be_switched_off(load):
    shape = "shape: {hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, "
    shape += "num_attention_heads: 2, num_key_value_heads: 1}\n"
    yaml = f"model: m\ndata: {{path: d}}\ninit: random\n{shape}"
    assert load(yaml=yaml).config.shape.hidden_size == 8
    assert load("~shape", yaml=yaml).config.shape is None
    assert load("shape=null", yaml=yaml).config.shape is None
    assert load("shape.hidden_size=16", yaml=yaml).config.shape.hidden_size == 16


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "no", "007", "1e5", "1_000", ".inf", "a: b", "#1", "- x", "{a: b}", "!tag", "&a", "*a", "~"),
        *("${x}", "${seed}", "$${x}", "\\${x}", "\\\\${x}", "${", "${oc.env:HOME}", "C:\\dir", "x\\", "???"),
        *(
            "\\???",
            "",
            " ",
            " x ",
            "a\nb",
            "a\tb",
            "a=b",
            "--x",
            '"',
            '"half',
            'a"b"',
            '"a" and "b"',
            "é",
            "日本",
        ),
        *(
            "[INST] hi [/INST",
            "[INST] hi [/INST]",
            "[half",
            "[hello]",
            "[1]",
            "[a, b]",
            '["a", 1]',
            '["a"',
            "true",
            "2024-01-01",
            "'x'",
        ),
    ],
)
def test_text_arrives_as_it_stands(load, text):
    assert load(f"prompt={text}", recipe="generate").config.prompt == text
    assert load(f"output_dir={text}").config.output_dir == text
    assert load("--output-dir", text).config.output_dir == text


@pytest.mark.parametrize(
    ("quoted", "text"),
    [
        ('"yes"', "yes"),
        ('""', ""),
        ('"null"', "null"),
        (r'"a\nb"', "a\nb"),
        (r'"\u00e9 \"q\""', 'é "q"'),
        ('"${seed}"', "${seed}"),
        ('"???"', "???"),
        ('"[a]"', "[a]"),
    ],
)
def test_text_wholly_in_double_quotes_is_a_json_string(load, quoted, text):
    assert load(f"prompt={quoted}", recipe="generate").config.prompt == text


def test_text_in_double_quotes_that_is_no_json_says_how_to_write_it(refusal):
    message = refusal(r'output_dir="C:\dir"')
    assert "not a valid JSON string" in message
    assert r"write \\ for a backslash" in message


@pytest.mark.parametrize(
    ("word", "prompts"),
    [
        ('prompt=["a", "b"]', ("a", "b")),
        ('prompt=["x: y"]', ("x: y",)),
        ("prompt=[]", ()),
        ('prompt=["${model}", "???"]', ("${model}", "???")),
    ],
)
def test_an_option_that_takes_a_list_too_reads_a_json_array(load, word, prompts):
    assert load(word, recipe="generate").config.prompt == prompts


def test_what_is_no_list_in_brackets_says_how_to_write_it(refusal):
    assert "needs quotes" in refusal("lora.targets=[a] b [c]", recipe="lora")
    assert "put it in quotes" in refusal("lora.targets=[yes, 007]", recipe="lora")


@pytest.mark.parametrize(
    ("word", "lr"),
    [("2e-5", 2e-5), ("1", 1), ("1.5E3", 1500), ("1_000", 1000), (" 3", 3)],
)
def test_numbers_are_read_as_yaml(load, word, lr):
    assert load(f"optim.lr={word}").config.optim.lr == lr


def test_numbers_may_be_negative_behind_a_space(refusal):
    assert refusal("--seed", "-1").startswith("seed: expected a whole number >= 0 and <= 4294967295, got -1")


def test_lists_and_tuples_are_written_in_brackets(load):
    assert load("optim.betas=[0.8, 0.9]").config.optim.betas == (0.8, 0.9)
    assert load("lora.targets=[q_proj]", recipe="lora").config.lora.targets == ("q_proj",)


@pytest.mark.parametrize(
    "words",
    [
        ["data.column_map.output=answer", "data.column-map.input=007"],
        ["data.column_map={output: answer, input: '007'}"],
        ["--data.column-map.output", "answer", "--data.column_map.input=007"],
        ["data.column_map={output: x, input: '007'}", "data.column_map.output=answer"],
    ],
    ids=" ".join,
)
def test_mappings_are_set_name_by_name_or_whole(load, words):
    assert load(*words).config.data.column_map == {"output": "answer", "input": "007"}


def test_an_entry_of_a_mapping_can_be_taken_away(load):
    yaml = "model: m\ndata: {path: d, column_map: {output: a, input: b}}\n"
    assert load("~data.column_map.output", yaml=yaml).config.data.column_map == {"input": "b"}
    assert load("data.column_map=null", yaml=yaml).config.data.column_map == {}


@pytest.mark.parametrize(
    ("words", "shuffle"),
    [
        (["--data.shuffle", "false"], False),
        (["--data.shuffle=no"], False),
        (["--data.shuffle", "off"], False),
        (["data.shuffle=False"], False),
        (["data.shuffle=false", "--data.shuffle"], True),
        (["data.shuffle=false", "--data.shuffle", "seed=3"], True),
        (["data.shuffle=false", "--data.shuffle", "--seed", "3"], True),
        (["data.shuffle=false", "--data.shuffle", "~seed"], True),
        (["data.shuffle=false", "--data.shuffle", "null"], True),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_flag_stands_alone_or_with_its_value(load, words, shuffle):
    assert load(*words).config.data.shuffle is shuffle


def test_a_number_option_takes_an_interpolation(load):
    assert load("optim.lr=${seed}", "seed=7").config.optim.lr == 7


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["batch_size"], "batch_size: a value must follow, as in `batch_size=VALUE`"),
        (["--batch_size"], "--batch_size: a value must follow, as in `--batch_size VALUE`"),
        (["--output-dir", "--seed", "3"], "--output-dir: a value must follow"),
        (["--output-dir", "--config"], "--output-dir: a value must follow"),
        (["--data.shuffle", "perhaps"], "data.shuffle: expected true or false, got 'perhaps'"),
        (["nonsense"], "nonsense: not understood"),
        ([""], "an empty word: not understood"),
        (["~"], "~: the name of an option must follow"),
        (["=3"], "=3: not understood"),
        (["a..b=3"], "a..b=3: not understood"),
        (["optim.=3"], "optim.=3: not understood"),
        (["-batch_size=3"], "-batch_size=3: no such option; did you mean --batch_size?"),
        (["-x"], "-x: no such option"),
        (["--"], "--: no such option"),
        (["optim.lr=1: 2"], "not a valid value: mapping values are not allowed"),
        (["optim.lr=1\nseed: 3"], "not a valid value: it holds several lines"),
        (["optim.lr=*a"], "not a valid value: found undefined alias"),
        (["optim.lr=${"], "not a valid value"),
        (["optim.lr=???"], "optim.lr: expected a number > 0, got ??? (from optim.lr=???)"),
        (['optim={lr: "???"}'], "optim.lr: expected a number > 0, got ???"),
        (["optim=x"], "optim: expected options (name, lr, betas, ...), got 'x' (from optim=x)"),
        (["optim={lrr: 1}"], "optim.lrr: no such option; did you mean optim.lr? (from optim={lrr: 1})"),
        (["data.column_map.a.b=x"], "data.column_map.a.b: no such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_that_set_nothing_are_told(refusal, words, says):
    assert says in refusal(*words)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("optim.lrr=3", "optim.lrr: no such option (from optim.lrr=3); did you mean optim.lr?"),
        ("--optim.lrr=3", "(from --optim.lrr=3); did you mean optim.lr?"),
        ("lr=3", "did you mean optim.lr?"),
        ("LR=3", "did you mean optim.lr?"),
        ("Optim.Lr=3", "did you mean optim.lr?"),
        ("name=x", "did you mean optim.name or schedule.name?"),
        ("--cofnig=x", "did you mean --config?"),
        ("~sede", "sede: no such option (from ~sede); did you mean seed?"),
        ("optim.lr.x=1", "optim.lr.x: no such option"),
        ("zzz=1", "zzz: no such option (from zzz=1)\n"),
    ],
)
def test_an_unknown_option_names_the_nearest_and_where_all_are_listed(refusal, word, says):
    message = refusal(word)
    assert says in message
    assert "`tune run full_finetune --help` lists the options" in message
