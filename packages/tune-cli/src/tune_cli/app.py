"""The commands of `tune`, each defined once and imported when it is used."""

import io
import sys
from collections.abc import Sequence
from typing import TextIO, get_args

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from tune_cli import __version__
from tune_cli.examples import CLOSING, EXAMPLES, USAGES
from tune_cli.help import RfcFormatter
from tune_cli.output import tell

COMMANDS = {
    "ls": "List all built-in recipes and configs.",
    "cp": "Copy a built-in recipe or config to a local path.",
    "cat": "Print a config, or every value that it leads to.",
    "validate": "Check a config and that the files it names exist.",
    "download": "Download a model from the Hugging Face Hub, ready to train.",
    "run": "Run a recipe, e.g. fine-tune a model.",
    "upload": "Upload a fine-tuned model to the Hugging Face Hub.",
    "convert-ckpt": "Convert a checkpoint from any format to any other.",
    "inspect": "Say what a checkpoint holds, from headers alone.",
    "diff": "Compare two checkpoints, of the same kind or not.",
}
ALIASES = {"launch": "run"}
PRINTING = ("ls", "cat", "validate", "inspect", "diff")
"""Commands that write nothing but standard output."""


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
    from tune_checkpoint import CheckpointError
    from tune_hub.errors import HubError
    from tune_launch import LaunchError
    from tune_recipes.errors import UserError

    _show_every_sign(sys.stdout)
    if not_text := [word for word in words if not word.isascii() and not _is_utf8(word)]:
        return _fail(f"{not_text[0]!a}: not UTF-8 text")
    if words[0] not in (*COMMANDS, *ALIASES):
        return _fail(_unknown_command(words))
    debug = "--debug" in words
    if words[0] not in ("run", "launch"):  # every command takes it; only `run` has more to show
        words = [word for word in words if word != "--debug"]
    try:
        return make_app()(words, exit_on_error=False, print_error=False, result_action="return_value") or 0
    except (CheckpointError, HubError) as error:
        return _fail(str(error), status=error.exit_status)
    except (UserError, LaunchError) as error:
        return _fail(str(error))
    except CycloptsError as error:
        return _fail(_explain(error, words[0]))
    except BrokenPipeError:
        raise  # the entry point ends quietly
    except Exception as error:
        cannot_print = isinstance(error, OSError) and error.filename is None and words[0] in PRINTING
        if debug or cannot_print:  # the entry point tells the latter
            raise
        return _fail(f"{type(error).__name__}: {error}\n  --debug shows the traceback", status=1)


def _show_every_sign(stream: TextIO) -> None:
    """Let a terminal that lacks a sign, as in the name of a file, show its number instead."""
    if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
        stream.reconfigure(errors="backslashreplace")


def _is_utf8(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:  # bytes of another encoding, which Python carries as lone surrogates
        return False
    return True


def _fail(message: str, *, status: int = 2) -> int:
    tell("error", message)
    return status


def _unknown_command(words: Sequence[str]) -> str:
    from tune_recipes.catalog import builtin_config, builtin_recipe, recipe_of_config
    from tune_recipes.suggest import did_you_mean

    asks_help = words[0] in ("help", "--help", "-h") and len(words) > 1
    word = words[1] if asks_help else words[0]
    if word in (*COMMANDS, *ALIASES):  # `tune help run and more`
        return f"{words[2]}: not understood\n  `tune {word} --help` shows what {word} takes"
    kind = "option" if word.startswith("-") else "command"
    hint = did_you_mean(word, [*COMMANDS, *ALIASES, "help", "--help", "--version"])
    if builtin_recipe(word):
        hint = f"; it is a recipe: `tune run {word}`"
    elif config := builtin_config(word):
        hint = f"; it is a config: `tune run {recipe_of_config(config, word)} --config {word}`"
    return f"{word or repr(word)}: no such {kind}{hint}\n  `tune --help` lists the commands"


def _explain(error: CycloptsError, command: str) -> str:
    """Return a parser's error in our words: what was typed, what was expected, where to look."""
    if isinstance(error, UnknownOptionError):
        from tune_recipes.suggest import did_you_mean

        typed = error.token.keyword or error.token.value
        names = [name for argument in error.argument_collection for name in argument.names]
        text = f"{typed}: no such option{did_you_mean(typed.partition('=')[0], names)}"
    elif isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        given = error.keyword or next(
            (token.keyword for token in error.argument.tokens if token.keyword), None
        )
        if given:
            text = f"{given}: a value must follow"
        else:
            text = f"{name if name.startswith('-') else name.upper()} is missing"
    elif isinstance(error, RepeatArgumentError):
        text = f"{error.token.keyword}: given twice"
    elif isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        text = f"{error.unused_tokens[0]}: one word more than `tune {command}` takes"
    elif isinstance(error, CoercionError) and error.token and error.token.keyword:
        text = f"{error.token.keyword}: {_expected(error)}, got '{error.token.value}'"
    else:
        error.verbose = False
        text = str(error)
    return f"{text}\n  `tune {command} --help` shows what it takes"


def _expected(error: CoercionError) -> str:
    choices = get_args(error.target_type)
    if error.target_type is bool:
        return "it takes no value"
    return f"expected one of {', '.join(map(str, choices))}" if choices else "expected another value"
