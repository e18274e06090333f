"""Makes a recipe's Config: Struct defaults < YAML file < command line, strict, each value with its origin."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import NODEFAULT, Struct

from tune_recipes.catalog import config_label
from tune_recipes.errors import UserError
from tune_recipes.options import (
    as_text,
    default_of,
    describe,
    group_type,
    is_mapping,
    list_options,
    metadata,
    takes_list,
    takes_null,
    type_at,
)
from tune_recipes.overrides import (
    UnknownOptions,
    option_names,
    parse_overrides,
    value_of,
)
from tune_recipes.suggest import did_you_mean
from tune_recipes.yaml_file import OPEN, escaped, read_yaml


class Origin(Struct, frozen=True):
    """Where a value came from."""

    kind: str
    """`default`, `file` or `command line`."""
    where: str = ""
    """`file:line`, or the words that were typed."""

    def __str__(self) -> str:
        return {"default": "default", "file": self.where}.get(self.kind, f"command line: {self.where}")


class MissingValues(UserError):
    """Options that must be given and are not; `paths` are their dotted names."""

    def __init__(self, message: str, paths: Sequence[str]):
        super().__init__(message)
        self.paths = tuple(paths)


class Change(NamedTuple):
    """One value from the command line; UNSET goes back to the default."""

    path: str
    value: Any
    typed: str


class Loaded(NamedTuple):
    """A Config with the origin of each of its values."""

    config: Any
    """The Config; its values as a plain dict where some are left open."""
    origins: dict[str, Origin]
    config_file: Path | None = None
    left_open: tuple[str, ...] = ()
    """Dotted names of the values that are `???`, which the command line is still to give."""

    def tree(self) -> dict[str, Any]:
        """Return all values as plain dicts, lists, numbers and texts."""
        return msgspec.to_builtins(self.config)


def load_config(
    config: type[Struct],
    config_file: Path | None = None,
    tokens: Sequence[str] = (),
    *,
    known: Sequence[str] = (),
    keep_open: bool = False,
) -> Loaded:
    """Merge defaults, a YAML file and the command line into a Config.

    Args:
        config: The recipe's Config class.
        config_file: YAML file, or None for the defaults alone.
        tokens: `key=value`, `--key value`, `--key=value`, `~key`.
        known: The command's own options, for suggestions.
        keep_open: Leave what is `???` as it is, to be shown; the rules between options are not applied then.

    Raises:
        UserError: Unknown names, or else values left open, missing or wrong, or else a broken rule.
    """
    changes = [
        change
        for override in parse_overrides(config, tokens, known=known)
        for change in _changes(
            config,
            override.path,
            msgspec.UNSET if override.text is None else value_of(override, type_at(config, override.path)),
            override.typed,
        )
    ]
    from_file, lines = read_yaml(config_file) if config_file else ({}, {})
    _refuse(config, dict(_unknown_keys(config, from_file, lines)))
    given = _given(config, from_file, changes)
    origins = _origins(config, lines, changes)
    left_open = tuple(_open_names(given))
    if left_open and not keep_open:
        _refuse_open(config, left_open, config_file)
    merged = _resolved(config, _over(_defaults(config, given), given), origins)
    _refuse_missing(config, merged)
    if problems := list(_wrong_values(config, merged, origins, left_open)):
        raise UserError("\n".join(problems))
    if left_open:
        return Loaded(merged, origins, config_file, left_open)
    try:
        value = msgspec.convert(merged, config)
    except msgspec.ValidationError as error:
        raise UserError(_plain(error, config_file, changes)) from None
    return Loaded(value, origins, config_file)


def _refuse(config: type[Struct], problems: dict[str, str], typed: str = "") -> None:
    """Raise what is wrong with names, if anything is; those that exist are not among the unknown ones."""
    if not problems:
        return
    text = "\n".join(f"{problem}{typed}" for problem in problems.values())
    unknown = [path for path in problems if type_at(config, path) is None]
    raise UnknownOptions(text, unknown) if unknown else UserError(text)


def _unknown_keys(
    config: type[Struct], values: dict[str, Any], lines: dict[str, str], prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield the dotted name and the message of what is no option, or no group where a group must be."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        where = f"{lines[path]}: " if path in lines else ""
        annotation = type_at(config, path)
        if annotation is None:
            yield path, f"{where}{path}: no such option{did_you_mean(path, option_names(config))}"
        elif "." in key:
            group, _, name = key.partition(".")
            yield path, f"{where}{path}: in a file it stands in its group, as `{group}: {{{name}: ...}}`"
        elif not (group := group_type(annotation)):
            continue
        elif isinstance(value, dict):
            yield from _unknown_keys(config, value, lines, f"{path}.")
        elif value is not None:
            names = ", ".join(field.name for field in msgspec.structs.fields(group)[:3])
            yield path, f"{where}{path}: expected options ({names}, ...), got {_got(value)}"


def _changes(config: type[Struct], path: str, value: Any, typed: str) -> Iterator[Change]:
    """Yield a value from the command line, a group's (`optim={lr: 1}`) option by option.

    Raises:
        UserError: A name in it is no option, or the value of a group is no mapping.
    """
    annotation = type_at(config, path)
    if value is not msgspec.UNSET and group_type(annotation):
        _refuse(config, dict(_unknown_keys(config, _nested(path, value), {})), f" (from {typed})")
        for key, item in (value or {}).items():
            yield from _changes(config, f"{path}.{key}", item, typed)
    elif value == OPEN:
        raise UserError(f"{path}: expected {describe(annotation)}, got {OPEN} (from {typed})")
    else:
        yield Change(path, value, typed)


def _nested(path: str, value: Any) -> dict[str, Any]:
    """Return `a.b` and a value as `{a: {b: value}}`."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def _given(config: type[Struct], from_file: dict[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    """Return the file's values with the command line's over them, unresolved; an empty group says nothing."""
    given = _over({}, from_file)
    for field in msgspec.structs.fields(config):
        if given.get(field.name, ...) is None and group_type(field.type) and not takes_null(field.type):
            del given[field.name]
    for path, value, _ in changes:
        if value is not msgspec.UNSET:
            given = _over(given, _nested(path, value))
            continue
        *groups, name = path.split(".")
        inside: Any = given
        for group in groups:
            inside = inside.get(group) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside.pop(name, None)
    return given


def _over(below: Any, above: Any) -> Any:
    """Return two trees as one; where both have a value, `above` has its way."""
    if not isinstance(above, dict):
        return above
    below = below if isinstance(below, dict) else {}
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}


def _origins(config: type[Struct], lines: dict[str, str], changes: Sequence[Change]) -> dict[str, Origin]:
    """Return the origin of each option, in the order of the options, entries of mappings behind them."""
    options = {option.path: option for option in list_options(config)}
    origins = dict.fromkeys(options, Origin("default"))
    for path, where in lines.items():
        if not group_type(type_at(config, path)):
            origins[path] = Origin("file", where)
    for path, value, typed in changes:
        if isinstance(value, dict):
            origins |= {f"{path}.{name}": Origin("command line", typed) for name in value}
        elif value is not msgspec.UNSET:
            origins[path] = Origin("command line", typed)
        else:
            for reset in [name for name in origins if name == path or name.startswith(f"{path}.")]:
                if reset in options:
                    origins[reset] = Origin("default")
                else:
                    del origins[reset]
    with_entries = {name.rpartition(".")[0] for name in origins if name not in options}
    return {path: origin for path, origin in origins.items() if path not in with_entries}


def _resolved(config: type[Struct], tree: dict[str, Any], origins: dict[str, Origin]) -> dict[str, Any]:
    """Return the values with their interpolations replaced by what they refer to."""
    import omegaconf

    try:
        merged = omegaconf.OmegaConf.create(tree)
        return omegaconf.OmegaConf.to_container(merged, resolve=True)  # pyright: ignore[reportReturnType]
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(_not_resolved(config, error, origins)) from None


def _not_resolved(config: type[Struct], error: Any, origins: dict[str, Origin]) -> str:
    import re

    path = str(error.full_key or "")
    reason = str(error).splitlines()[0]
    not_there = r"Interpolation key '(.*)' not found|.*Error trying to access (\S+): .*"
    if missing := re.fullmatch(not_there, reason):
        key = missing[1] or missing[2]
        name = key.lstrip(".")
        reason = f"${{{key}}} refers to an option that "
        if type_at(config, name) is None:
            reason += f"does not exist{did_you_mean(name, option_names(config))}"
        else:
            reason += f"has no value; give it, as {name}={_placeholder(type_at(config, name))}"
    origin = origins.get(path, Origin("default"))
    return f"{path}: {reason}" + (f" (from {origin.where})" if origin.where else "")


def _refuse_open(config: type[Struct], missing: Sequence[str], config_file: Path | None) -> None:
    example = " ".join(f"{name}={_placeholder(type_at(config, name))}" for name in missing)
    label = f"{config_label(config_file)} leaves" if config_file else "the command line leaves"
    docs = {option.path: option.doc for option in list_options(config)}
    about = f"\n  {docs.get(missing[0], '')}".rstrip() if len(missing) == 1 else ""
    raise MissingValues(
        f"{label} {', '.join(missing)} open; give it on the command line, as {example}{about}", missing
    )


def _open_names(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _open_names(value, f"{prefix}{key}.")
        elif value == OPEN:
            yield f"{prefix}{key}"


def _defaults(config: type[Struct], given: dict[str, Any]) -> dict[str, Any]:
    """Return the Struct's defaults as a tree; an optional group only where something in it is given."""
    tree: dict[str, Any] = {}
    for field in msgspec.structs.fields(config):
        inside = given.get(field.name)
        group = group_type(field.type)
        default = default_of(field)
        if group and (default is NODEFAULT or (default is None and inside)):
            tree[field.name] = _defaults(group, inside if isinstance(inside, dict) else {})
        elif default is not NODEFAULT:
            tree[field.name] = escaped(msgspec.to_builtins(default))
    return tree


def _refuse_missing(config: type[Struct], merged: dict[str, Any]) -> None:
    missing = [
        option
        for option in list_options(config)
        if option.required and _lookup(merged, option.path) == (NODEFAULT, False)
    ]
    if not missing:
        return
    paths = [option.path for option in missing]
    if len(missing) > 2:
        example = " ".join(f"{option.path}={_placeholder(option.type)}" for option in missing)
        raise MissingValues(f"{', '.join(paths)} must be given, as\n  {example}", paths)
    texts = [
        f"{option.path}: must be given, as {option.path}={_placeholder(option.type)}\n"
        f"  {option.doc.partition(chr(10))[0]}".rstrip()
        for option in missing
    ]
    raise MissingValues("\n".join(texts), paths)


def _placeholder(annotation: Any) -> str:
    """Return what stands for the value in an example: FOLDER, FILE or VALUE."""
    kinds = {(meta.extra or {}).get("names") for meta in metadata(annotation)} - {None}
    return "VALUE" if not kinds else "FILE" if kinds == {"file"} else "FOLDER"


def _wrong_values(
    config: type[Struct], merged: dict[str, Any], origins: dict[str, Origin], left_open: Sequence[str]
) -> Iterator[str]:
    """Convert leaf by leaf, so that every problem is told and not only the first."""
    for option in list_options(config):
        value, _ = _lookup(merged, option.path)
        if value is NODEFAULT or option.path in left_open:
            continue
        try:
            msgspec.convert(value, option.type)
        except msgspec.ValidationError:
            yield _wrong(option.path, option.type, value, origins)


def _lookup(tree: Any, path: str) -> tuple[Any, bool]:
    """Return the value at a dotted name (NODEFAULT if absent), and whether a group above it is null."""
    for part in path.split("."):
        if tree is None:
            return NODEFAULT, True
        if not isinstance(tree, dict) or part not in tree:
            return NODEFAULT, False
        tree = tree[part]
    return tree, False


def _wrong(path: str, annotation: Any, value: Any, origins: dict[str, Origin]) -> str:
    from_below = (origin for name, origin in origins.items() if name.startswith(f"{path}."))
    origin = next((o for o in [*from_below, origins.get(path)] if o and o.where), Origin("default"))
    words = f"{path}: expected {describe(annotation)}, got {_got(value)} (from {origin.where or origin.kind})"
    if "one of" in words:
        choices = describe(annotation).removeprefix("one of ").split(", ")
        return words + (did_you_mean(value, choices) if isinstance(value, str) else "")
    if takes_list(annotation) and isinstance(value, str):
        return f"{words}\n  a list stands in brackets: [{value}]"
    plain = not isinstance(value, list | dict) or takes_list(annotation) or is_mapping(annotation)
    if "text" in words and plain and not isinstance(value, str) and value is not None:
        return f"{words}\n  put it in quotes to have it taken as text"
    return words


def _got(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"'{value}'" if isinstance(value, str) else as_text(value)


def _plain(error: msgspec.ValidationError, config_file: Path | None, changes: Sequence[Change]) -> str:
    """Return a cross-field rule's own words, without msgspec's path, and between what it was broken."""
    typed = " ".join(dict.fromkeys(change.typed for change in changes))
    where = " with ".join(
        [*([config_label(config_file)] if config_file else []), *([typed] if typed else [])]
    )
    text = str(error).partition(" - at `$")[0]
    return f"{where}: {text}" if where else text
