"""`tune ls`."""

from tune_cli.output import print_json


def ls(recipe: str | None = None, /, *, json: bool = False) -> None:
    """List all built-in recipes and configs.

    Args:
        recipe: List only this recipe.
        json: Print one JSON object: recipe to configs.
    """
    from tune_cli.listing import read_catalog, write_listing

    only = _file_name(recipe) if recipe else None
    if not json:
        write_listing(only)
        return
    print_json({name: configs for name, configs in read_catalog().items() if only in (None, name)})


def _file_name(recipe: str) -> str:
    from tune_recipes.catalog import builtin_recipe, recipe_names
    from tune_recipes.errors import UserError
    from tune_recipes.suggest import did_you_mean

    path = builtin_recipe(recipe)
    if path is None:
        hint = did_you_mean(recipe.removesuffix(".py"), recipe_names())
        raise UserError(f"{recipe}: no such built-in recipe{hint}\n  `tune ls` lists them")
    return path.name
