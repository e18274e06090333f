"""`tune run`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

OPTIONS = ("--config", "--resume", "--debug", "--help")


def run(
    recipe: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    config: str | None = None,
    resume: Annotated[Path | None, Parameter(name="--resume")] = None,
    debug: bool = False,
) -> int:
    """Run a recipe, e.g. fine-tune a model.

    Args:
        recipe: Built-in recipe, with or without .py, or a path.
        overrides: Options to change.
        config: Built-in config, with or without .yaml, or a path.
        resume: Run folder to go on with; recipe and config come from it.
        debug: Show the traceback of an error.
    """
    from tune_cli.configured import split_overrides
    from tune_recipes.catalog import find_recipe
    from tune_recipes.errors import UserError

    names, changes = split_overrides([word for word in (recipe, *overrides) if word is not None])
    wants_help = [word for word in changes if word in ("--help", "-h")]
    if resume:
        return _resume(resume, [*names[1:], *changes], debug=debug)
    if not names:
        raise UserError(_which_recipe(config))
    path = find_recipe(names[0])
    if wants_help:
        from tune_cli.recipe_help import print_recipe_help

        print_recipe_help(path, config)
        return 0
    return _start(path, config, [*names[1:], *changes], debug=debug)


def _which_recipe(config: str | None) -> str:
    from tune_recipes.catalog import find_config, recipe_of_config

    if config is None:
        return (
            "RECIPE is missing: `tune ls` lists the recipes\n"
            "  to get started: `tune run full_finetune --config demo_full_finetune`"
        )
    recipe = recipe_of_config(find_config(config), config)
    return f"RECIPE is missing: `tune run {recipe} --config {config}`"


def _start(recipe: Path, config: str | None, overrides: list[str], *, debug: bool) -> int:
    from tune_cli.configured import check, load
    from tune_launch import run_in_place
    from tune_recipes.catalog import find_config
    from tune_recipes.runs import create_run

    config_file = find_config(config) if config else None
    loaded = load(recipe, config_file, overrides, OPTIONS)
    check(loaded)
    if hasattr(loaded.config, "output_dir"):
        folder = create_run(loaded, recipe, ["tune", *sys.argv[1:]])
        arguments = ["--run-dir", str(folder)]
    else:
        arguments = [*(["--config", str(config_file)] if config_file else []), *overrides]
    return run_in_place(recipe, [*arguments, *(["--debug"] if debug else [])])


def _resume(folder: Path, changes: list[str], *, debug: bool) -> int:
    from tune_launch import run_in_place
    from tune_recipes.errors import UserError
    from tune_recipes.runs import CONFIG, RECIPE, read_info

    info = read_info(folder)
    if changes:
        raise UserError(
            f"{changes[0]}: a resumed run keeps its config, so that it ends as if it had never been stopped\n"
            f"  to start a new run: `tune run {folder / RECIPE} --config {folder / CONFIG} {changes[0]}`"
        )
    beside_original = Path(info.recipe).parent
    return run_in_place(
        folder / RECIPE,
        ["--resume", str(folder), *(["--debug"] if debug else [])],
        import_from=beside_original,
    )
