"""`tune run RECIPE --help`: every option of a recipe, from its source, without importing torch."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from tune_cli.help import INDENT, row


def print_recipe_help(recipe: Path, config: str | None) -> None:
    """Print what a recipe does and every option that it has, grouped as in a config.

    Args:
        recipe: The recipe file.
        config: Built-in config or path; its values are shown too.
    """
    import ast

    from tune_recipes.catalog import config_names, find_config, shown
    from tune_recipes.config import read_yaml
    from tune_recipes.options import list_options
    from tune_recipes.recipe_source import field_docs, read_config_class

    config_class = read_config_class(recipe)
    given = read_yaml(find_config(config))[0] if config else {}
    summary = ast.get_docstring(ast.parse(recipe.read_text(encoding="utf-8"))) or recipe.stem
    name = recipe.name if config_names(recipe.stem) else shown(recipe)
    lines = [
        summary.splitlines()[0],
        "",
        "USAGE",
        f"{INDENT}$ tune run {name} [--config CONFIG] [OPTION=VALUE ...]",
    ]
    group = None
    for option in list_options(config_class):
        section = option.path.rpartition(".")[0]
        if section != group:
            about = field_docs(config_class).get(section, "").partition("\n")[0]
            lines += ["", f"{section.upper()}: {about}" if section else "OPTIONS"]
            group = section
        lines.append(row(option.path, _about(option, given)))
    lines += _closing(recipe, name, config_names(recipe.stem))
    sys.stdout.write("\n".join(lines) + "\n")


def _about(option: Any, given: dict[str, Any]) -> str:
    from tune_recipes.options import short_type

    doc = " ".join(option.doc.split())
    facts = [short_type(option.type)]
    value = _lookup(given, option.path)
    if value is not None:
        facts.append(f"this config: {_text(value)}")
    facts.append("required" if option.required else f"default: {_text(option.default)}")
    return f"{doc} [{', '.join(facts)}]".strip()


def _lookup(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _closing(recipe: Path, name: str, configs: list[str]) -> list[str]:
    first = configs[0] if configs else "CONFIG"
    lines = [
        "",
        "EXAMPLES",
        f"{INDENT}$ tune run {name} --config {first}",
        f"{INDENT}$ tune run {name} --config {first} OPTION=VALUE",
    ]
    if configs:
        lines += ["", "CONFIGS", *(f"{INDENT}{config}.yaml" for config in configs)]
    return lines
