"""Whatever the value: it arrives, and it survives being written and read."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tune_recipes.catalog import RECIPES
from tune_recipes.config import load_config
from tune_recipes.errors import UserError
from tune_recipes.options import list_options
from tune_recipes.overrides import parse_overrides, value_of
from tune_recipes.recipe_source import read_config_class
from tune_recipes.yaml_file import dump_yaml

FULL = read_config_class(RECIPES / "full_finetune.py")
GENERATE = read_config_class(RECIPES / "generate.py")
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TRICKY = st.text("0123456789.eE+-_:?\\\\${}[]#&*!|>'\"%@`~, \n\txnifyes", max_size=12)
TEXT = (
    ANY_TEXT
    | TRICKY
    | st.sampled_from(
        ["???", "2e-5", "1.5e5", "null", "yes", "007", ".inf", "<<", "=", "\ufeff", "\x85", "a\u2028b"]
    )
)
NUMBER = st.floats(min_value=0, exclude_min=True, allow_nan=False)
FINITE = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@one_folder
@given(TEXT)
def test_any_text_given_to_a_text_option_arrives_unchanged(text):
    if text == "null" or (text[:1] == text[-1:] == '"' and len(text) > 1):
        return
    words = ["model=m", "data.path=d", f"output_dir={text}", "--data.column-map.output", f"x{text}"]
    config = load_config(FULL, None, words).config
    assert config.output_dir == text
    assert config.data.column_map == {"output": f"x{text}"}


@one_folder
@given(TEXT)
def test_any_text_can_be_given_as_a_json_string(text):
    quoted = msgspec.json.encode(text).decode()
    assert load_config(GENERATE, None, ["model=m", f"prompt={quoted}"]).config.prompt == text


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "c.yaml"


@one_folder
@given(
    text=TEXT,
    lr=FINITE,
    limit=NUMBER,
    names=st.dictionaries(TEXT, TEXT, max_size=3),
    betas=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    steps=st.none() | st.integers(1, 2**63 - 1),
    flag=st.booleans(),
)
def test_any_config_that_is_written_reads_back_equal(file, text, lr, limit, names, betas, steps, flag):
    before = msgspec.convert(
        {
            "model": text,
            "data": {"path": text, "column_map": names, "shuffle": flag},
            "optim": {"lr": lr, "betas": betas, "max_grad_norm": limit},
            "max_steps": steps,
        },
        FULL,
    )
    file.write_text(dump_yaml(msgspec.to_builtins(before)), encoding="utf-8")
    assert load_config(FULL, file).config == before


@one_folder
@given(prompts=TEXT | st.lists(TEXT, max_size=3))
def test_texts_and_lists_of_texts_read_back_equal(file, prompts):
    before = msgspec.convert({"model": "m", "prompt": prompts}, GENERATE)
    file.write_text(dump_yaml(msgspec.to_builtins(before)), encoding="utf-8")
    assert load_config(GENERATE, file).config == before


NAMES = [option.path for option in list_options(FULL)]
WORD = st.one_of(
    TEXT,
    st.builds(
        "{}{}{}{}".format, st.sampled_from(["", "--", "-", "~"]), st.sampled_from(NAMES), st.just("="), TEXT
    ),
    st.builds("--{}".format, st.sampled_from([*NAMES, "optim", "data.column_map.x"])),
    st.builds("{}={}".format, st.sampled_from(["optim", "data", "shape", "data.column_map", "lora"]), TEXT),
)


@one_folder
@given(st.lists(WORD, max_size=4))
def test_arbitrary_words_give_a_config_or_a_message_and_nothing_else(words):
    try:
        overrides = parse_overrides(FULL, words)
        load_config(FULL, None, ["model=m", "data.path=d", *words])
    except UserError as error:
        assert str(error)
    else:
        assert all(override.typed for override in overrides)


@one_folder
@given(st.binary(max_size=40) | TEXT.map(str.encode) | TEXT.map(lambda text: f"model: {text}\n".encode()))
def test_an_arbitrary_file_gives_a_config_or_a_message_and_nothing_else(file, content):
    file.write_bytes(content)
    try:
        load_config(FULL, file, ["data.path=d"])
    except UserError as error:
        assert str(error)


def test_a_value_of_every_type_is_read_from_the_command_line():
    for option in list_options(FULL):
        for override in parse_overrides(FULL, [f"{option.path}=1"]):
            assert value_of(override, option.type) in (1, "1")
