"""`tune run RECIPE --help`: every option of a recipe, from its source, without importing torch."""

import sys
import textwrap
from pathlib import Path
from typing import Any, cast

from tune_cli.help import INDENT, WIDTH, row


def print_recipe_help(recipe: Path, config: str | None) -> None:
    """Print what a recipe does and every option that it has, grouped as in a config.

    Args:
        recipe: The recipe file.
        config: Built-in config or path; its values are shown too.
    """
    import ast

    from tune_recipes.catalog import RECIPES, config_names, find_config, recipe_label
    from tune_recipes.files import read_text
    from tune_recipes.options import list_options
    from tune_recipes.recipe_source import field_docs, read_config_class
    from tune_recipes.yaml_file import read_yaml

    config_class = read_config_class(recipe)
    given = read_yaml(find_config(config))[0] if config is not None else {}
    summary = ast.get_docstring(ast.parse(read_text(recipe))) or recipe.stem
    configs = config_names(recipe.stem) if recipe.parent == RECIPES else []
    name = recipe_label(recipe)
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
            title = f"{section.upper()}: {about}" if about else section.upper()
            lines += ["", textwrap.fill(title, WIDTH, subsequent_indent=INDENT) if section else "OPTIONS"]
            group = section
        lines.append(row(option.path, _about(option, given)))
    lines += _closing(name, configs)
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
        tree = cast("dict[str, Any]", tree).get(part) if isinstance(tree, dict) else None
    return tree


def _text(value: Any) -> str:
    from tune_recipes.options import as_text

    if value is None:
        return "none"
    return value if isinstance(value, str) else as_text(value)


def _closing(name: str, configs: list[str]) -> list[str]:
    from tune_cli.listing import still_to_give
    from tune_recipes.catalog import CONFIGS

    demos = [config for config in configs if config.startswith("demo")]
    first = next(iter(demos or configs), "CONFIG")
    given = still_to_give(str(CONFIGS / name / f"{first}.yaml")) if configs else ""
    lines = [
        "",
        "EXAMPLES",
        f"{INDENT}$ tune run {name} --config {first}{given}",
        *_fitting(f"{INDENT}$ tune run {name} --config {first}", f"{given} OPTION=VALUE"),
    ]
    if configs:
        lines += ["", "CONFIGS", *(f"{INDENT}{config}.yaml" for config in configs)]
    return lines


def _fitting(command: str, rest: str) -> list[str]:
    """Return a command on one line, or on two as a shell takes them."""
    return (
        [command + rest] if len(command + rest) <= WIDTH else [f"{command} \\", f"{INDENT * 2}{rest.strip()}"]
    )
