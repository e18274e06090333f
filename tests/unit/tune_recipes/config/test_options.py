"""Options as a list: defaults, documentation, and types in words."""

import enum
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from tune_recipes.options import as_text, describe, list_options, short_type, takes_text, type_at


class Inner(msgspec.Struct, frozen=True):
    """A group."""

    size: int = 1
    """How big."""
    name: str = "x"


class Outer(msgspec.Struct, frozen=True, kw_only=True):
    """Groups and single options, mixed."""

    group: Inner = Inner(size=5)
    """The group."""
    must: int
    """Has to be given."""
    maybe: Inner | None = None
    made: list[int] = msgspec.field(default_factory=lambda: [1, 2])
    free: dict[str, int] = {}


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def test_single_options_come_first_in_the_order_of_the_source():
    names = [option.path for option in list_options(Outer)]
    assert names == ["must", "made", "free", "group.size", "group.name", "maybe.size", "maybe.name"]


def test_defaults_are_those_of_the_config_not_of_the_group():
    defaults = {option.path: option.default for option in list_options(Outer)}
    assert defaults["group.size"] == 5
    assert defaults["maybe.size"] == 1
    assert defaults["made"] == [1, 2]
    assert {option.path for option in list_options(Outer) if option.required} == {"must"}


def test_the_text_under_a_field_is_its_documentation():
    docs = {option.path: option.doc for option in list_options(Outer)}
    assert docs["must"] == "Has to be given."
    assert docs["group.size"] == "How big."
    assert docs["group.name"] == ""


@pytest.mark.parametrize(
    ("path", "annotation"),
    [
        ("must", int),
        ("group.size", int),
        ("maybe.size", int),
        ("free.any_name", int),
        ("nope", None),
        ("must.x", None),
        ("group.nope", None),
        ("free.a.b", None),
        ("", None),
    ],
)
def test_a_dotted_name_has_a_type_or_is_no_option(path, annotation):
    assert type_at(Outer, path) is annotation


@pytest.mark.parametrize(
    ("annotation", "long", "short"),
    [
        (int, "a whole number", "int"),
        (float | None, "a number", "float"),
        (bool, "true or false", "bool"),
        (str, "text", "text"),
        (Annotated[int | None, Meta(ge=1)], "a whole number >= 1", "int"),
        (
            Annotated[Annotated[int, Meta(ge=1)] | str, Meta(le=9)],
            "a whole number or text <= 9 and >= 1",
            "int|text",
        ),
        (Annotated[float, Meta(gt=0, le=1)], "a number > 0 and <= 1", "float"),
        (Literal["a", "b"], "one of a, b", "a|b"),
        (Colour, "one of red, blue", "red|blue"),
        (tuple[float, float], "a list of 2 numbers", "list"),
        (tuple[str, ...], "a list of text", "list"),
        (list[int], "a list of numbers", "list"),
        (set[str], "a list of text", "list"),
        (str | tuple[str, ...], "text or a list of text", "text|list"),
        (dict[str, str], "a mapping of names to text", "mapping"),
        (dict, "a mapping", "mapping"),
        (msgspec.Raw, "a value of type Raw", "Raw"),
    ],
    ids=str,
)
def test_types_are_told_in_words(annotation, long, short):
    assert describe(annotation) == long
    assert short_type(annotation) == short


@pytest.mark.parametrize(
    ("annotation", "literal"),
    [
        (str, True),
        (str | None, True),
        (Literal["a"], True),
        (Colour, True),
        (Annotated[str, Meta(min_length=1)], True),
        (Literal[8, 16], False),
        (str | bool, False),
        (int, False),
    ],
    ids=str,
)
def test_what_is_typed_for_text_and_choices_of_text_is_the_value_itself(annotation, literal):
    assert takes_text(annotation) is literal


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (float("inf"), ".inf"),
        (float("-inf"), "-.inf"),
        (float("nan"), ".nan"),
        ((1, 2), "[1, 2]"),
    ],
    ids=str,
)
def test_values_are_shown_as_one_would_type_them(value, text):
    assert as_text(value) == text
