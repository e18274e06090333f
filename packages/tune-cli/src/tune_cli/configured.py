"""What `run`, `validate` and `cat` share: from the words of a command line to a checked Config."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tune_recipes.config import Loaded


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split words into names (a recipe, a config) and what sets an option.

    `key=value`, `--key=value` and `~key` are one word each, `--key value` is two; `--key` alone is one where
    nothing or another option follows.
    """
    names: list[str] = []
    overrides: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-") and "=" not in word:
            overrides.append(word)
            if rest and not rest[0].startswith("--"):
                overrides.append(rest.pop(0))
        elif word.startswith(("-", "~")) or ("=" in word and not Path(word).exists()):
            overrides.append(word)
        else:
            names.append(word)
    return names, overrides


def load(recipe: Path, config_file: Path | None, overrides: Sequence[str], known: Sequence[str]) -> "Loaded":
    """Return the recipe's Config as the file and the command line make it.

    Raises:
        UserError: Anything about it is wrong; a config of another recipe is told as that.
    """
    from tune_recipes.catalog import CONFIGS
    from tune_recipes.config import load_config
    from tune_recipes.errors import UserError
    from tune_recipes.recipe_source import read_config_class

    try:
        return load_config(read_config_class(recipe), config_file, overrides, known=known)
    except UserError as error:
        other = (
            config_file.parent.name if config_file and config_file.parent.parent == CONFIGS else recipe.stem
        )
        if config_file and other != recipe.stem:
            raise UserError(
                f"{config_file.name} is a config for {other}, not for {recipe.stem}:\n  {error}\n"
                f"  run it with `tune run {other} --config {config_file.stem}`"
            ) from None
        raise


def check(loaded: "Loaded") -> None:
    """Check that the files which a Config names exist, and say how to get a model that does not.

    Raises:
        UserError: One is missing.
    """
    from tune_recipes.checks import MissingFolder, check_inputs

    try:
        check_inputs(loaded)
    except MissingFolder as error:
        from tune_hub import resolve_alias

        repository = resolve_alias(error.folder.name) or "ORGANISATION/MODEL"
        error.args = (
            f"{error}\n  to get it: `hf download {repository} --local-dir {error.folder}`,"
            f" or `tune convert-ckpt FILE.gguf --output-dir {error.folder}`",
        )
        raise
