"""The options of a recipe as a flat list: dotted name, type, default, choices, documentation."""

import enum
import math
import types
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import NODEFAULT, Struct

from tune_recipes.recipe_source import field_docs


class Option(Struct, frozen=True):
    """One option that can be set."""

    path: str
    """Dotted name, as `optim.lr`."""
    type: Any
    """The annotation, for msgspec.convert."""
    default: Any
    """msgspec.NODEFAULT where one must be given."""
    doc: str = ""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is NODEFAULT


def list_options(config: type[Struct], prefix: str = "", group_default: Any = None) -> list[Option]:
    """Return every option of a recipe's Config in the order of the source, groups after single ones.

    Args:
        config: The Config, or the Struct of a group in it.
        prefix: What stands before the names, `optim.`.
        group_default: What the Config has for the group, as `Optim(lr=2e-4)`; holds the defaults then.
    """
    docs = field_docs(config)
    single, grouped = [], []
    for field in msgspec.structs.fields(config):
        path = prefix + field.name
        default = default_of(field) if group_default is None else getattr(group_default, field.name)
        if group := group_type(field.type):
            grouped += list_options(group, f"{path}.", default if isinstance(default, group) else None)
        else:
            single.append(Option(path, field.type, default, docs.get(field.name, "")))
    return single + grouped


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """Return the default of a Struct's field, NODEFAULT if it has none."""
    if field.default is NODEFAULT and field.default_factory is not NODEFAULT:
        return field.default_factory()
    return field.default


def group_type(annotation: Any) -> type[Struct] | None:
    """Return the Struct that an annotation means, also as `Struct | None`; else None."""
    for part in _union_parts(annotation):
        if isinstance(part, type) and issubclass(part, Struct):
            return part
    return None


def type_at(config: type[Struct], path: str) -> Any:
    """Return the annotation of a dotted name, or None if there is no such option.

    Below a `dict[str, T]` every name is an option of type T.
    """
    annotation: Any = config
    for part in path.split("."):
        if group := group_type(annotation):
            by_name = {field.name: field.type for field in msgspec.structs.fields(group)}
            if part not in by_name:
                return None
            annotation = by_name[part]
        elif value_type := _dict_value(annotation):
            annotation = value_type
        else:
            return None
    return annotation


def metadata(annotation: Any) -> Iterator[msgspec.Meta]:
    """Yield the msgspec.Meta that an annotation carries, through unions."""
    first, *rest = typing.get_args(annotation) or (None,)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from (item for item in rest if isinstance(item, msgspec.Meta))
        yield from metadata(first)
    elif origin in (typing.Union, types.UnionType):
        for part in (first, *rest):
            yield from metadata(part)


def takes_text(annotation: Any) -> bool:
    """Whether what is typed is the value itself: a string field, or a choice of strings."""
    parts = [part for part in _union_parts(annotation) if part is not types.NoneType]
    return any(part is str or _is_choice_of_text(part) for part in parts) and bool not in parts


def takes_any_text(annotation: Any) -> bool:
    """Whether any text at all is among what the option takes, and not only a choice of texts."""
    return str in _union_parts(annotation)


def takes_list(annotation: Any) -> bool:
    """Whether a list is among what the option takes."""
    return any(_is_list(part) for part in _union_parts(annotation))


def is_mapping(annotation: Any) -> bool:
    """Whether the option takes names of the user's own choice, each with a value."""
    return _dict_value(annotation) is not None


def takes_null(annotation: Any) -> bool:
    """Whether null is among what the option, or the group, takes."""
    return types.NoneType in _union_parts(annotation)


def is_flag(annotation: Any) -> bool:
    """Whether the option is true or false, so that `--name` alone can mean true."""
    return bool in _union_parts(annotation)


def describe(annotation: Any) -> str:
    """Return in words what an option takes: `a number > 0`, `one of auto, fp32, bf16`."""
    parts = [part for part in _union_parts(annotation) if part is not types.NoneType]
    words = " or ".join(dict.fromkeys(_describe_part(part) for part in parts))
    limits = [
        f"{sign} {as_text(bound)}"
        for meta in metadata(annotation)
        for sign, bound in ((">=", meta.ge), (">", meta.gt), ("<=", meta.le), ("<", meta.lt))
        if bound is not None
    ]
    return " ".join([words, " and ".join(limits)]).strip()


def short_type(annotation: Any) -> str:
    """Return the type in a word, for a column: `float`, `int`, `text`, `auto|fp32|bf16`."""
    names = []
    for part in _union_parts(annotation):
        if _is_choice(part):
            names.append("|".join(str(value) for value in typing.get_args(part)))
        elif _is_enum(part):
            names.append("|".join(str(member.value) for member in part))
        elif part is not types.NoneType:
            origin = typing.get_origin(part) or part
            named = {str: "text", tuple: "list", set: "list", frozenset: "list", dict: "mapping"}
            names.append(named.get(origin) or getattr(origin, "__name__", str(origin)))
    return "|".join(dict.fromkeys(names))


def _describe_part(part: Any) -> str:
    if _is_choice(part):
        return "one of " + ", ".join(str(value) for value in typing.get_args(part))
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    if part in names:
        return names[part]
    origin = typing.get_origin(part)
    if _is_list(part):
        items = [item for item in typing.get_args(part) if item is not Ellipsis]
        count = f"{len(items)} " if origin is tuple and Ellipsis not in typing.get_args(part) else ""
        return f"a list of {count}{_plural(describe(items[0]))}" if items else "a list"
    if origin is dict:
        return f"a mapping of names to {_plural(describe(typing.get_args(part)[1]))}"
    if _is_enum(part):
        return "one of " + ", ".join(str(member.value) for member in part)
    return "a mapping" if part is dict else f"a value of type {getattr(part, '__name__', part)}"


def as_text(value: Any) -> str:
    """Return a value on one line as one would type it: JSON, with `.inf` and `.nan`, which JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_text, value))}]"
    return msgspec.json.encode(value).decode()


def _plural(words: str) -> str:
    first, _, rest = words.removeprefix("a ").removeprefix("whole ").partition(" ")
    return f"{first}s {rest}".strip() if first == "number" else words


def _is_list(part: Any) -> bool:
    return (typing.get_origin(part) or part) in (list, tuple, set, frozenset)


def _is_choice(part: Any) -> bool:
    return typing.get_origin(part) is typing.Literal


def _is_choice_of_text(part: Any) -> bool:
    choices = typing.get_args(part) if _is_choice(part) else [m.value for m in part] if _is_enum(part) else []
    return bool(choices) and all(isinstance(choice, str) for choice in choices)


def _is_enum(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, enum.Enum)


def _dict_value(annotation: Any) -> Any:
    for part in _union_parts(annotation):
        if typing.get_origin(part) is dict:
            return typing.get_args(part)[1]
    return None


def _union_parts(annotation: Any) -> list[Any]:
    """Split `A | B`, looking through Annotated."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _union_parts(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [p for part in typing.get_args(annotation) for p in _union_parts(part)]
    return [annotation]
