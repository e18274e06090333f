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
    config: Annotated[str | None, Parameter(metavar="CONFIG")] = None,
    resume: Annotated[Path | None, Parameter(name="--resume", metavar="RUN_DIR")] = None,
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
    from tune_cli.configured import HELP, split_overrides
    from tune_recipes.catalog import find_recipe
    from tune_recipes.errors import UserError

    names, changes = split_overrides([word for word in (recipe, *overrides) if word is not None])
    if any(word in HELP for word in changes) or names[1:] == ["help"]:
        return _help(names, config)
    if resume:
        settings = [f"--config {config}"] if config is not None else []
        return _resume(resume, names, [*settings, *names[1:], *changes], debug=debug)
    if not names:
        raise UserError(_which_recipe(config, changes))
    return _start(find_recipe(names[0]), config, [*names[1:], *changes], debug=debug)


def _help(names: list[str], config: str | None) -> int:
    from tune_cli.recipe_help import print_recipe_help
    from tune_recipes.catalog import find_config, find_recipe, recipe_of_config

    if not names and config is None:
        from tune_cli.pages import render

        print(render("run"), end="")
        return 0
    name = names[0] if names else recipe_of_config(find_config(config or ""), config or "", "run")
    print_recipe_help(find_recipe(name), config)
    return 0


def _which_recipe(config: str | None, changes: list[str]) -> str:
    import shlex

    from tune_recipes.catalog import find_config, recipe_of_config

    if config is None:
        return (
            "RECIPE is missing: `tune ls` lists the recipes\n"
            "  to get started: `tune run full_finetune --config demo_full_finetune`"
        )
    recipe = recipe_of_config(find_config(config), config, "run")
    return f"RECIPE is missing: `{shlex.join(['tune', 'run', recipe, '--config', config, *changes])}`"


def _start(recipe: Path, config: str | None, overrides: list[str], *, debug: bool) -> int:
    from tune_cli.configured import check, load
    from tune_launch import run_in_place
    from tune_recipes.catalog import find_config
    from tune_recipes.runs import create_run

    config_file = find_config(config) if config is not None else None
    loaded = load(recipe, config_file, overrides, OPTIONS)
    check(loaded)
    flags = ["--debug"] if debug else []
    if not hasattr(loaded.config, "output_dir"):
        return run_in_place(
            recipe, [*(["--config", str(config_file)] if config_file else []), *overrides, *flags]
        )
    folder = create_run(loaded, recipe, ["tune", *sys.argv[1:]])
    try:
        return run_in_place(recipe, ["--run-dir", str(folder), *flags])
    except (Exception, KeyboardInterrupt) as error:  # before the recipe came to its last line, `start(...)`
        return _did_not_start(error, folder, debug=debug)


def _did_not_start(error: Exception | KeyboardInterrupt, folder: Path, *, debug: bool) -> int:
    from tune_recipes.runs import LOG, now, update_info

    if isinstance(error, KeyboardInterrupt):
        update_info(folder, status="interrupted", end=now())
        print("\nInterrupted before it began.", file=sys.stderr)
        return 130
    from tune_recipes.reporting import report

    update_info(folder, status="failed", end=now())
    return report(error, debug=debug, log=folder / LOG)


def _resume(folder: Path, names: list[str], changes: list[str], *, debug: bool) -> int:
    from tune_launch import run_in_place
    from tune_recipes.catalog import find_recipe, shown
    from tune_recipes.errors import UserError
    from tune_recipes.runs import CONFIG, RECIPE, read_info

    info = read_info(folder)
    ran = Path(info.recipe)
    if names and (asked := find_recipe(names[0])).stem != ran.stem:
        raise UserError(
            f"{folder} is a run of {ran.stem}, not of {asked.stem}\n"
            f"  to go on with it: `tune run --resume {shown(folder)}`"
        )
    if changes:
        again = f"tune run {shown(folder / RECIPE)} --config {shown(folder / CONFIG)}"
        raise UserError(
            f"{changes[0]}: a resumed run keeps its config, so that it ends as if it had never been stopped\n"
            f"  to start a new run: `{again}{'' if changes[0].startswith('--config') else f' {changes[0]}'}`"
        )
    if missing := [name for name in (RECIPE, CONFIG) if not (folder / name).is_file()]:
        raise UserError(f"{folder}: not a whole run folder: no {' and no '.join(missing)} in it")
    return run_in_place(
        folder / RECIPE,
        ["--resume", str(folder), *(["--debug"] if debug else [])],
        import_from=ran.parent,
    )
