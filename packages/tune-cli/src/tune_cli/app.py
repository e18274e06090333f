"""The commands of `tune`, each defined once and imported when it is used."""

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.exceptions import MissingArgumentError, UnknownOptionError

from tune_cli import __version__
from tune_cli.examples import CLOSING, EXAMPLES, USAGES
from tune_cli.help import RfcFormatter

COMMANDS = {
    "ls": "List all built-in recipes and configs.",
    "cp": "Copy a built-in recipe or config to a local path.",
    "cat": "Print a config, or every value that it leads to.",
    "validate": "Check a config and that the files it names exist.",
    "run": "Run a recipe, e.g. fine-tune a model.",
    "convert-ckpt": "Convert a model into a Hugging Face folder.",
}
ALIASES = {"launch": "run"}


def make_app() -> App:
    """Return the cyclopts app; no command's module is imported yet."""
    app = App(
        name="tune",
        help="tune: fine-tune your own language model with ease",
        usage="tune [COMMAND] ...",
        version=__version__,
        version_flags=["--version", "-V"],
        help_flags=["--help", "-h"],
        help_format="plaintext",
        help_formatter=RfcFormatter(),
        help_epilogue=EXAMPLES["tune"] + CLOSING,
        default_parameter=Parameter(negative=(), show_default=False),
    )
    for position, (name, summary) in enumerate(COMMANDS.items()):
        module = name.replace("-", "_")
        app.command(
            f"tune_cli.commands.{module}:{module}",
            name=[name, *(alias for alias, target in ALIASES.items() if target == name)],
            help=summary,
            usage=f"tune {name} {USAGES[name]}",
            help_epilogue=EXAMPLES[name],
            help_flags=[],
            group_parameters=Group("Options", sort_key=1),
            sort_key=position,
        )
    return app


def run(words: Sequence[str]) -> int:
    """Run a command line and return the exit status; every error is a message on standard error."""
    from tune_checkpoint import CheckpointError, WriteFailedError
    from tune_recipes.errors import UserError

    if words[0] not in (*COMMANDS, *ALIASES):
        return _fail(_unknown_command(words[0]))
    try:
        return make_app()(words, exit_on_error=False, print_error=False, result_action="return_value") or 0
    except (UserError, CheckpointError) as error:
        return _fail(str(error), status=1 if isinstance(error, WriteFailedError) else 2)
    except CycloptsError as error:
        return _fail(_explain(error, words[0]))


def _fail(message: str, *, status: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _unknown_command(word: str) -> str:
    from tune_recipes.catalog import builtin_recipe
    from tune_recipes.suggest import did_you_mean

    kind = "option" if word.startswith("-") else "command"
    hint = did_you_mean(word, [*COMMANDS, *ALIASES, "help", "--help", "--version"])
    if builtin_recipe(word):
        hint = f"; it is a recipe: `tune run {word}`"
    return f"{word}: no such {kind}{hint}\n  `tune --help` lists the commands"


def _explain(error: CycloptsError, command: str) -> str:
    """Return a parser's error in our words: what was typed, what was expected, where to look."""
    if isinstance(error, UnknownOptionError):
        from tune_recipes.suggest import did_you_mean

        typed = error.token.keyword or error.token.value
        names = [name for argument in error.argument_collection for name in argument.names]
        text = f"{typed}: no such option{did_you_mean(typed.partition('=')[0], names)}"
    elif isinstance(error, MissingArgumentError) and error.argument is not None:
        text = f"{error.argument.name.lstrip('-').upper()} is missing"
    else:
        error.verbose = False
        text = str(error)
    return f"{text}\n  `tune {command} --help` shows what it takes"
