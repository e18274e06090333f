"""Makes a recipe's Config: Struct defaults < YAML file < command line, strict, each value with its origin."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import NODEFAULT, Struct

from tune_recipes.catalog import config_label
from tune_recipes.errors import UserError
from tune_recipes.options import (
    describe,
    group_type,
    list_options,
    metadata,
    takes_text,
    type_at,
)
from tune_recipes.overrides import Override, escape, option_names, parse_overrides, value_of
from tune_recipes.suggest import did_you_mean

OPEN = "???"
"""OmegaConf's mark in a YAML file for a value that the command line must give."""


class Origin(Struct, frozen=True):
    """Where a value came from."""

    kind: str
    """`default`, `file` or `command line`."""
    where: str = ""
    """`file:line`, or the words that were typed."""

    def __str__(self) -> str:
        return {"default": "default", "file": self.where}.get(self.kind, f"command line: {self.where}")


class Loaded(NamedTuple):
    """A Config with the origin of each of its values."""

    config: Any
    origins: dict[str, Origin]
    config_file: Path | None = None

    def tree(self) -> dict[str, Any]:
        """Return all values as plain dicts, lists, numbers and texts."""
        return msgspec.to_builtins(self.config)


def load_config(
    config: type[Struct],
    config_file: Path | None = None,
    tokens: Sequence[str] = (),
    *,
    known: Sequence[str] = (),
) -> Loaded:
    """Merge defaults, a YAML file and the command line into a Config.

    Args:
        config: The recipe's Config class.
        config_file: YAML file, or None for the defaults alone.
        tokens: `key=value`, `--key value`, `--key=value`, `~key`.
        known: The command's own options, for suggestions.

    Raises:
        UserError: Unknown names, wrong types, missing values or broken rules: all of them, a line each.
    """
    overrides = parse_overrides(config, tokens, known=known)
    from_file, lines = read_yaml(config_file) if config_file else ({}, {})
    problems = list(_unknown_keys(config, from_file, lines))
    if problems:
        raise UserError("\n".join(problems))
    origins = _origins(config, lines, overrides)
    merged = _merge(config, config_file, from_file, overrides)
    problems = list(_wrong_values(config, merged, origins))
    if problems:
        raise UserError("\n".join(problems))
    try:
        value = msgspec.convert(merged, config)
    except msgspec.ValidationError as error:
        raise UserError(_plain(error, config_file)) from None
    return Loaded(value, origins, config_file)


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a YAML file without resolving it.

    Returns:
        The values, and `file:line` of each dotted key.

    Raises:
        UserError: The file is not YAML, or not a mapping; with the line.
    """
    import omegaconf
    import yaml

    label = config_label(path)
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = omegaconf.OmegaConf.create(text) if root else omegaconf.OmegaConf.create({})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{label}:{mark.line + 1}:{mark.column + 1}" if mark else label
        raise UserError(f"{where}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, omegaconf.errors.OmegaConfBaseException) as error:
        raise UserError(f"{label}: not valid YAML: {str(error).splitlines()[0]}") from None
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise UserError(f"{label}:1: a config is a mapping of options to values, as `batch_size: 2`")
    container = omegaconf.OmegaConf.to_container(values, resolve=False)
    return container, dict(_lines(root, label))  # pyright: ignore[reportReturnType]


def dump_yaml(tree: dict[str, Any]) -> str:
    """Return YAML text that `load_config` reads back to the same values."""
    import yaml

    return yaml.safe_dump(_escaped(tree), sort_keys=False, allow_unicode=True, width=110)


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return escape(value) if isinstance(value, str) else value


def _lines(node: Any, label: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield prefix + str(key.value), f"{label}:{key.start_mark.line + 1}"
            yield from _lines(value, label, f"{prefix}{key.value}.")


def _unknown_keys(
    config: type[Struct], values: dict[str, Any], lines: dict[str, str], prefix: str = ""
) -> Iterator[str]:
    for key, value in values.items():
        path = f"{prefix}{key}"
        annotation = type_at(config, path)
        if annotation is None:
            hint = did_you_mean(path, option_names(config))
            yield f"{lines.get(path, '')}: {path}: no such option{hint}".removeprefix(": ")
        elif isinstance(value, dict) and group_type(annotation):
            yield from _unknown_keys(config, value, lines, f"{path}.")


def _origins(config: type[Struct], lines: dict[str, str], overrides: Sequence[Override]) -> dict[str, Origin]:
    """Return the origin of each option, in the order of the options, entries of mappings behind them."""
    origins = {option.path: Origin("default") for option in list_options(config)}
    for path, where in lines.items():
        if not group_type(type_at(config, path)):
            origins[path] = Origin("file", where)
    for override in overrides:
        below = [path for path in origins if path == override.path or path.startswith(f"{override.path}.")]
        origin = Origin("default") if override.text is None else Origin("command line", override.typed)
        origins |= dict.fromkeys(below or [override.path], origin)
    return origins


def _merge(
    config: type[Struct], config_file: Path | None, from_file: dict[str, Any], overrides: Sequence[Override]
) -> dict[str, Any]:
    """Return the merged and resolved values; options that have no value anywhere are absent."""
    import omegaconf

    given = omegaconf.OmegaConf.create(from_file)
    for override in overrides:
        _apply(config, given, override)
    unresolved: Any = omegaconf.OmegaConf.to_container(given)
    _refuse_open(unresolved, config_file)
    merged = omegaconf.OmegaConf.merge(_defaults(config, unresolved), given)
    try:
        return omegaconf.OmegaConf.to_container(merged, resolve=True)  # pyright: ignore[reportReturnType]
    except omegaconf.errors.OmegaConfBaseException as error:
        where = f"{config_label(config_file)}: " if config_file else ""
        raise UserError(f"{where}{error.full_key}: {str(error).splitlines()[0]}") from None


def _apply(config: type[Struct], given: Any, override: Override) -> None:
    import omegaconf

    parts = override.path.split(".")
    if override.text is None:
        parent = omegaconf.OmegaConf.select(given, ".".join(parts[:-1])) if parts[1:] else given
        if isinstance(parent, omegaconf.DictConfig):
            parent.pop(parts[-1], None)
        return
    value = value_of(override, type_at(config, override.path))
    try:
        omegaconf.OmegaConf.update(given, override.path, value, merge=True, force_add=True)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(f"{override.typed}: {str(error).splitlines()[0]}") from None


def _refuse_open(values: dict[str, Any], config_file: Path | None) -> None:
    missing = list(_open_names(values))
    if missing and config_file:
        example = " ".join(f"{name}=..." for name in missing)
        raise UserError(
            f"{config_label(config_file)} leaves {', '.join(missing)} open\n"
            f"  give it on the command line, as {example}"
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
        if group and (field.default is not None or inside):
            tree[field.name] = _defaults(group, inside if isinstance(inside, dict) else {})
        elif not group and field.default is not NODEFAULT:
            tree[field.name] = msgspec.to_builtins(field.default)
        elif not group and field.default_factory is not NODEFAULT:
            tree[field.name] = msgspec.to_builtins(field.default_factory())
        elif group and field.default is None:
            tree[field.name] = None
    return _escaped(tree)


def _wrong_values(config: type[Struct], merged: dict[str, Any], origins: dict[str, Origin]) -> Iterator[str]:
    """Convert leaf by leaf, so that every problem is told and not only the first."""
    for option in list_options(config):
        value, group_is_off = _lookup(merged, option.path)
        if group_is_off:
            continue
        if value is NODEFAULT:
            if option.required:
                yield _missing(option.path, option.type, option.doc)
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


def _missing(path: str, annotation: Any, doc: str) -> str:
    value = (
        "FOLDER"
        if any((meta.extra or {}).get("names") == "checkpoint" for meta in metadata(annotation))
        else "..."
    )
    return f"{path}: must be given, as {path}={value}\n  {doc.splitlines()[0] if doc else ''}".rstrip()


def _wrong(path: str, annotation: Any, value: Any, origins: dict[str, Origin]) -> str:
    origin = next((o for p, o in origins.items() if p == path or p.startswith(f"{path}.")), Origin("default"))
    got = f"'{value}'" if isinstance(value, str) else msgspec.json.encode(value).decode()
    words = f"{path}: expected {describe(annotation)}, got {got} (from {origin.where or origin.kind})"
    if takes_text(annotation) and not isinstance(value, str) and value is not None and "one of" not in words:
        words += f'\n  a text that looks like something else needs quotes: "{value}"'
    elif isinstance(value, str) and isinstance(got, str) and "one of" in words:
        choices = describe(annotation).removeprefix("one of ").split(", ")
        words += did_you_mean(value, choices)
    return words


def _plain(error: msgspec.ValidationError, config_file: Path | None) -> str:
    """Return a cross-field rule's own words, without msgspec's path."""
    text = str(error).partition(" - at `$")[0]
    return f"{config_label(config_file)}: {text}" if config_file else text
