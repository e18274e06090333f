"""`tune run`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from tune_cli.launching import Wish

PROCESSES = Group("Several processes", sort_key=2)
OPTIONS = (
    *("--config", "--resume", "--dry-run", "--debug", "--help"),
    *("--num-gpus", "--gpus", "--nproc", "--all-ranks", "--hang-timeout", "--max-restarts"),
    *("--nnodes", "--node-rank", "--rdzv-endpoint", "--rdzv-id"),
)


def _both(name: str, metavar: str) -> Parameter:
    """An option that is known with `-` and with `_`, as torchrun's are."""
    names = dict.fromkeys((name, "--" + name[2:].replace("-", "_")))
    return Parameter(name=list(names), metavar=metavar, group=PROCESSES, allow_leading_hyphen=True)


def run(
    recipe: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    config: Annotated[str | None, Parameter(metavar="CONFIG")] = None,
    resume: Annotated[Path | None, Parameter(name="--resume", metavar="RUN_DIR")] = None,
    dry_run: bool = False,
    debug: bool = False,
    num_gpus: Annotated[str | None, _both("--num-gpus", "N|all")] = None,
    gpus: Annotated[str | None, _both("--gpus", "IDS")] = None,
    nproc: Annotated[int | None, _both("--nproc", "N")] = None,
    all_ranks: Annotated[bool, Parameter(name=["--all-ranks", "--all_ranks"], group=PROCESSES)] = False,
    hang_timeout: Annotated[float, _both("--hang-timeout", "SECONDS")] = 300.0,
    max_restarts: Annotated[int, _both("--max-restarts", "N")] = 0,
    nnodes: Annotated[int | None, _both("--nnodes", "N")] = None,
    node_rank: Annotated[int | None, _both("--node-rank", "K")] = None,
    rdzv_endpoint: Annotated[str | None, _both("--rdzv-endpoint", "HOST:PORT")] = None,
    rdzv_id: Annotated[str | None, _both("--rdzv-id", "NAME")] = None,
) -> int:
    """Run a recipe, e.g. fine-tune a model.

    Args:
        recipe: Built-in recipe, with or without .py, or a path.
        overrides: Options to change.
        config: Built-in config, with or without .yaml, or a path.
        resume: Run folder to go on with; recipe and config come from it.
        dry_run: Print what would run, and the memory it would take; then stop.
        debug: Show the traceback of an error.
        num_gpus: Train on so many GPUs of this machine, or on all.
        gpus: Train on these GPUs, e.g. 0,3.
        nproc: Train in so many processes on the CPU.
        all_ranks: Show what all processes print, not only the first.
        hang_timeout: End a process that has not answered for so many seconds; 300.
        max_restarts: Start all again from the last checkpoint when one fails, so often.
        nnodes: Train on so many machines; start the same command on each.
        node_rank: Number of this machine, from 0; without it they are numbered as they come.
        rdzv_endpoint: Where the machines meet: the name of one of them, and a free port there.
        rdzv_id: Name of the run, where several meet at one place.
    """
    from tune_cli.configured import HELP, split_overrides

    names, changes = split_overrides([word for word in (recipe, *overrides) if word is not None])
    if any(word in HELP for word in changes) or names[1:] == ["help"]:
        return _help(names, config)
    wish = Wish(
        num_gpus=num_gpus,
        gpus=gpus,
        nproc=nproc,
        nnodes=nnodes,
        node_rank=node_rank,
        rdzv_endpoint=rdzv_endpoint,
        rdzv_id=rdzv_id,
        max_restarts=max_restarts,
        hang_timeout=hang_timeout,
        all_ranks=all_ranks,
        dry_run=dry_run,
    )
    return _begin(names, changes, config, resume, wish, debug=debug)


def _begin(
    names: list[str], changes: list[str], config: str | None, resume: Path | None, wish: Wish, *, debug: bool
) -> int:
    from tune_recipes.catalog import find_recipe
    from tune_recipes.errors import UserError

    if resume:
        settings = [f"--config {config}"] if config is not None else []
        return _resume(resume, names, [*settings, *names[1:], *changes], wish, debug=debug)
    if not names:
        raise UserError(_which_recipe(config, changes))
    return _start(find_recipe(names[0]), config, [*names[1:], *changes], wish, debug=debug)


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


def _start(recipe: Path, config: str | None, overrides: list[str], wish: Wish, *, debug: bool) -> int:
    from tune_cli.configured import check, load
    from tune_cli.launching import check_machine, start
    from tune_recipes.catalog import find_config

    if wish.how_many:  # sooner than what takes longer to look at
        check_machine(wish)
    config_file = find_config(config) if config is not None else None
    loaded = load(recipe, config_file, overrides, OPTIONS)
    check(loaded)
    return start(recipe, loaded, overrides, wish, debug=debug)


def _resume(folder: Path, names: list[str], changes: list[str], wish: Wish, *, debug: bool) -> int:
    from tune_cli.launching import resume
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
    if wish.dry_run:
        raise UserError(
            "--dry-run: a resumed run does what it was started for; to plan such a run:\n"
            f"  `tune run {shown(folder / RECIPE)} --config {shown(folder / CONFIG)} --dry-run`"
        )
    return resume(folder, info, wish, debug=debug)
