"""What the command line says about a recipe's options: `key=value`, `--key value`, `--key=value`, `~key`."""

import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tune_recipes.catalog import recipe_label
from tune_recipes.errors import UserError
from tune_recipes.options import is_flag, list_options, takes_any_text, takes_list, takes_text, type_at
from tune_recipes.suggest import did_you_mean

_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class UnknownOptions(UserError):
    """Names that are no options of the recipe; `paths` are the dotted names."""

    def __init__(self, message: str, paths: Sequence[str]):
        super().__init__(message)
        self.paths = tuple(paths)


class Override(Struct, frozen=True):
    """One option set on the command line."""

    path: str
    """Dotted name, `-` written as `_`."""
    text: str | None
    """What stands after `=`; None resets to the default."""
    typed: str
    """The words as they were typed, for messages."""


def parse_overrides(
    config: type[Struct], tokens: Sequence[str], *, known: Sequence[str] = ()
) -> list[Override]:
    """Parse the words that are left of a command line.

    Args:
        config: The recipe's Config, which says which names there are.
        tokens: The words.
        known: Options of the command itself, so that a misspelt one is recognised.

    Raises:
        UserError: An unknown name (the nearest is suggested), or a word that sets nothing.
    """
    return [_checked(config, override, known) for override in _split(config, tokens, known)]


def _split(config: type[Struct], tokens: Sequence[str], known: Sequence[str]) -> Iterator[Override]:
    words = deque(tokens)
    while words:
        word = words.popleft()
        name, equals, text = word.removeprefix("--").partition("=")
        if word.startswith("~"):
            yield Override(_normal(word[1:]), None, word)
        elif equals and _KEY.fullmatch(name):
            yield Override(_normal(name), text, word)
        elif word.startswith("--") and _KEY.fullmatch(name):
            yield _flag_or_pair(config, word, _normal(name), words, known)
        else:
            raise UserError(_not_an_override(config, word, known))


def _flag_or_pair(
    config: type[Struct], word: str, path: str, words: deque[str], known: Sequence[str]
) -> Override:
    annotation = type_at(config, path)
    if annotation is None:
        raise UnknownOptions(_unknown(config, path, word, known), [path])
    if is_flag(annotation) and (not words or _sets_something(words[0])):
        return Override(path, "true", word)
    if not words or _names_option(config, words[0], known):
        also = f"; if {words[0]} is the value: `{path}={words[0]}`" if words else ""
        raise UserError(f"{word}: a value must follow, as in `{word} VALUE`{also}")
    text = words.popleft()
    return Override(path, text, f"{word} {text}")


def _sets_something(word: str) -> bool:
    """Whether a word looks as if it set an option, so that it is no value of the flag before it."""
    return word.startswith(("--", "~")) or bool(_KEY.fullmatch(word.partition("=")[0]) and "=" in word)


def _names_option(config: type[Struct], word: str, known: Sequence[str]) -> bool:
    """Whether a word is `--NAME` or `--NAME=VALUE` of an option that exists."""
    dashed = word.partition("=")[0]
    return dashed in known or (
        dashed.startswith("--") and type_at(config, _normal(dashed.removeprefix("--"))) is not None
    )


def _checked(config: type[Struct], override: Override, known: Sequence[str]) -> Override:
    if not override.path:
        raise UserError("~: the name of an option must follow, as in `~max_steps`")
    if type_at(config, override.path) is None:
        raise UnknownOptions(_unknown(config, override.path, override.typed, known), [override.path])
    return Override(override.path, None if override.text == "null" else override.text, override.typed)


def option_names(config: type[Struct]) -> list[str]:
    """Every dotted name, and the groups that stand before the dots."""
    names = [option.path for option in list_options(config)]
    return [*names, *dict.fromkeys(name.rpartition(".")[0] for name in names if "." in name)]


def _unknown(config: type[Struct], path: str, typed: str, known: Sequence[str]) -> str:
    commands = {name.removeprefix("--").replace("-", "_"): name for name in known}
    hint = did_you_mean(path, [*commands, *option_names(config)])
    for name, spelled in commands.items():
        hint = hint.replace(f"mean {name}?", f"mean {spelled}?")
    typed = "" if typed == path else f" (from {typed})"
    return f"{path}: no such option{typed}{hint}\n  {_where_listed(config)}"


def _not_an_override(config: type[Struct], word: str, known: Sequence[str]) -> str:
    if word.startswith("-"):
        dashed = [*known, *(f"--{name}" for name in option_names(config))]
        hint = did_you_mean(f"--{word.lstrip('-').partition('=')[0]}", dashed)
        return f"{word}: no such option{hint}\n  {_where_listed(config)}"
    if type_at(config, _normal(word)) is not None:
        return f"{word}: a value must follow, as in `{word}=VALUE`"
    shown = word or "an empty word"
    return f"{shown}: not understood; an option is set as `optim.lr=1e-4` or `--optim.lr 1e-4`"


def _where_listed(config: type[Struct]) -> str:
    """Return the sentence that says where the recipe's options are listed."""
    file = getattr(sys.modules.get(config.__module__), "__file__", None)
    return f"`tune run {recipe_label(Path(file)) if file else 'RECIPE'} --help` lists the options"


def _normal(name: str) -> str:
    return name.replace("-", "_")


def value_of(override: Override, annotation: Any) -> Any:
    """Return the value that an override's text means for an option of this type.

    For text it is taken as it stands, unless it is wholly in double quotes (then a JSON string). Where the
    option takes any text or a list, a JSON array of strings is the list. Everything else is read as YAML.

    Raises:
        UserError: The text is not valid JSON or YAML.
    """
    text = override.text or ""
    in_brackets = takes_list(annotation) and text.startswith("[") and text.endswith("]")
    if not takes_text(annotation) or (in_brackets and not takes_any_text(annotation)):
        return _yaml_value(override, text)
    if in_brackets:
        return _list_or_text(text)
    if not _JSON_STRING.fullmatch(text):
        return escape(text)
    try:
        return escape(msgspec.json.decode(text, type=str))
    except msgspec.DecodeError as error:
        raise UserError(
            f"{override.typed}: not a valid JSON string: {error}\n"
            "  a text in double quotes is read as JSON: write \\\\ for a backslash, \\n for a new line"
        ) from None


def _list_or_text(text: str) -> Any:
    """Return the list that a JSON array of strings means; other text, as `[INST] hi [/INST]`, is itself."""
    try:
        return [escape(item) for item in msgspec.json.decode(text, type=list[str])]
    except msgspec.DecodeError:
        return escape(text)


def _yaml_value(override: Override, text: str) -> Any:
    import omegaconf
    import yaml

    try:
        parsed: Any = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.create(f"value: {text}"))
        if set(parsed) == {"value"}:
            return parsed["value"]
        reason = "it holds several lines"
    except (yaml.YAMLError, omegaconf.errors.OmegaConfBaseException) as error:
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    quotes = "\n  text with signs in it needs quotes inside the brackets" if text.startswith("[") else ""
    raise UserError(f"{override.typed}: not a valid value: {reason}{quotes}")


def escape(text: str) -> str:
    r"""Return text as a config must hold it so that it is nothing but text.

    A backslash goes before `${`, which would begin an interpolation, and before a whole `???`, which would
    leave the option open. OmegaConf takes it away when it resolves.
    """
    if re.fullmatch(r"\\*\?\?\?", text):
        return f"\\{text}"
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)
