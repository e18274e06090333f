"""Reads and writes the YAML of configs; tells the line of each key and of each mistake. Imports no torch."""

import re
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from tune_recipes.catalog import config_label
from tune_recipes.errors import UserError
from tune_recipes.files import read_text
from tune_recipes.overrides import escape

OPEN = "???"
"""OmegaConf's mark in a YAML file for a value that the command line must give."""


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a YAML file without resolving it.

    Returns:
        The values, and `file:line` of each dotted key.

    Raises:
        UserError: The file is not YAML, or not a mapping of names; with the line.
    """
    import omegaconf
    import yaml

    label = config_label(path)
    text = read_text(path, label)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None or (isinstance(root, yaml.ScalarNode) and not root.value):
            return {}, {}
        if not isinstance(root, yaml.MappingNode):
            line = root.start_mark.line + 1
            raise UserError(f"{label}:{line}: a config is a mapping of options to values, as `batch_size: 2`")
        _refuse_keys_that_are_no_names(root, label)
        values = omegaconf.OmegaConf.create(text)
        container: Any = _still_escaped(omegaconf.OmegaConf.to_container(values, resolve=False), values)
    except yaml.MarkedYAMLError as error:
        raise UserError(_syntax_error(error, text, label)) from None
    except (yaml.YAMLError, omegaconf.errors.OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"{label}: not valid YAML: {str(error).splitlines()[0]}") from None
    return container, dict(_lines(root, label))


def _still_escaped(value: Any, node: Any) -> Any:
    r"""Put back the backslash before a text `???`, which OmegaConf takes away too early."""
    from omegaconf import OmegaConf

    if not isinstance(value, dict | list):
        return value
    kept = {}
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            kept[key] = _still_escaped(item, node[key])
        else:
            is_text = (
                isinstance(item, str) and item.lstrip("\\") == OPEN and not OmegaConf.is_missing(node, key)
            )
            kept[key] = escape(item) if is_text else item
    return kept if isinstance(value, dict) else list(kept.values())


def _syntax_error(error: Any, text: str, label: str) -> str:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"{label}: not valid YAML: {error.problem}"
    line = next(iter(text.splitlines()[mark.line : mark.line + 1]), "")
    hint = ""
    if "{" in line.replace("${", "", 1) and ("${" in line or OPEN in line):
        hint = "\n  between braces, ${...} and ??? need quotes"
    elif "\t" in line:
        hint = "\n  YAML is indented with spaces, not tabs"
    return f"{label}:{mark.line + 1}:{mark.column + 1}: not valid YAML: {error.problem}{hint}"


def _refuse_keys_that_are_no_names(node: Any, label: str) -> None:
    import yaml

    seen, nodes = set(), [node]
    while nodes:
        node = nodes.pop()
        if not isinstance(node, yaml.MappingNode) or id(node) in seen:
            continue
        seen.add(id(node))
        for key, value in node.value:
            is_name = isinstance(key, yaml.ScalarNode) and key.tag.endswith((":str", ":merge"))
            if not is_name and not key.tag.endswith(":map") and isinstance(key, yaml.ScalarNode):
                raise UserError(
                    f"{label}:{key.start_mark.line + 1}: {key.value}: a name is expected here, and YAML reads"
                    f' this as something else\n  in quotes it is a name: "{key.value}"'
                )
            nodes.append(value)


def _lines(node: Any, label: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag.endswith(":merge"):
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    yield from _lines(merged, label, prefix)
                continue
            yield prefix + str(key.value), f"{label}:{key.start_mark.line + 1}"
            yield from _lines(value, label, f"{prefix}{key.value}.")


def dump_yaml(tree: dict[str, Any], left_open: Sequence[str] = ()) -> str:
    """Return YAML text that `load_config` reads back to the same values.

    Args:
        tree: The values.
        left_open: Dotted names of those that are open: their `???` is no text.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes what YAML's readers take for something else: `2e-5` as a number, U+0085 as a new line."""

    def represent_text(dumper: Any, text: str) -> Any:
        style = '"' if any(mark in text for mark in "\x85\u2028\u2029\ufeff") else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    number = re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.[\d_]+)([eE][-+]?\d+)?")
    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    Dumper.add_representer(str, represent_text)
    values = escaped(tree)
    for path in left_open:
        *groups, name = path.split(".")
        reduce(dict.__getitem__, groups, values)[name] = OPEN
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def escaped(value: Any) -> Any:
    """Return a tree of values in which no text is an interpolation or an open value."""
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escaped(item) for item in value]
    return escape(value) if isinstance(value, str) else value
