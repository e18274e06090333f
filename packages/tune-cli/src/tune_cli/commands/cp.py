"""`tune cp`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def cp(
    name: str,
    dest: str | None = None,
    /,
    *,
    to: Annotated[str | None, Parameter(metavar="PATH")] = None,
    no_clobber: Annotated[bool, Parameter(name=["--no-clobber", "-n"])] = False,
    force: Annotated[bool, Parameter(name=["--force", "-f"])] = False,
    make_parents: bool = False,
) -> None:
    """Copy a built-in recipe or config to a local path.

    Args:
        name: Recipe or config, with or without suffix.
        dest: File or folder to copy to; the folder you are in, if left out.
        to: The same as DEST.
        no_clobber: Leave a file that is there as it is, and say so.
        force: Replace a file that is there.
        make_parents: Make the folders that are missing.
    """
    from tune_recipes.errors import UserError

    source = _find(name)
    if dest and to:
        raise UserError(f"where to: {dest} or {to}? Give DEST or --to, not both")
    if force and no_clobber:
        raise UserError("--force replaces a file, --no-clobber leaves it: give one of them")
    wish = to or dest or "."
    try:
        target = _target(source, wish)
        if target.is_symlink() or target.exists():
            if no_clobber:
                print(f"{target} is there already; left as it is")
                return
            if not force:
                again = "--force replaces it, or choose another name with --to"
                raise UserError(f"{target} is there already\n  {again}")
        _copy(source, target, name, make_parents=make_parents)
    except OSError as error:
        raise UserError(f"{wish}: cannot be written: {error.strerror}") from None
    print(f"Copied {source.name} to {target}")


def _copy(source: Path, target: Path, name: str, *, make_parents: bool) -> None:
    from tune_recipes.files import write_atomic

    _check_folder(target, name, make=make_parents)
    write_atomic(target, source.read_bytes())


def _check_folder(target: Path, name: str, *, make: bool) -> None:
    from tune_recipes.catalog import shown
    from tune_recipes.errors import UserError

    folder = target.parent
    file = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
    if file:
        raise UserError(f"{file} is a file, not a folder; choose another place with --to")
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    elif not folder.is_dir():
        again = f"tune cp {name} --to {shown(target)} --make-parents"
        raise UserError(f"{folder}: no such folder\n  to make it: `{again}`")


def _find(name: str) -> Path:
    from tune_recipes.catalog import all_config_names, builtin_config, builtin_recipe, recipe_names, shown
    from tune_recipes.errors import UserError
    from tune_recipes.suggest import did_you_mean

    source = builtin_recipe(name) or builtin_config(name)
    if source is None:
        files = [*(f"{recipe}.py" for recipe in recipe_names()), *(f"{c}.yaml" for c in all_config_names())]
        stem = name.removesuffix(".py").removesuffix(".yaml").removesuffix(".yml")
        hint = did_you_mean(stem, [*recipe_names(), *all_config_names()])
        if same := [file for file in files if file.partition(".")[0] == stem]:
            hint = f"; did you mean {same[0]}?"
        raise UserError(f"{shown(name)}: no such built-in recipe or config{hint}\n  `tune ls` lists them")
    return source


def _target(source: Path, wish: str) -> Path:
    """Return the file to write: inside a folder under its own name, else as wished with the right suffix."""
    from tune_recipes.catalog import expand_home
    from tune_recipes.errors import UserError

    target = expand_home(wish)
    if target.is_dir() or wish.endswith("/"):
        return target / source.name
    if not target.suffix:
        return target.with_name(target.name + source.suffix)
    if target.suffix != source.suffix and not (source.suffix == ".yaml" and target.suffix == ".yml"):
        raise UserError(f"{target}: a copy of {source.name} must end in {source.suffix}")
    return target
