"""What the command line says about a recipe's options: `key=value`, `--key value`, `--key=value`, `~key`."""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tune_recipes.errors import UserError
from tune_recipes.options import is_flag, list_options, takes_list, takes_text, type_at
from tune_recipes.suggest import did_you_mean

_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


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
        raise UserError(_unknown(config, path, word, known))
    if is_flag(annotation) and (not words or words[0].lower() not in ("true", "false", "null")):
        return Override(path, "true", word)
    if not words:
        raise UserError(f"{word}: a value must follow, as in `{word} VALUE`")
    text = words.popleft()
    return Override(path, text, f"{word} {text}")


def _checked(config: type[Struct], override: Override, known: Sequence[str]) -> Override:
    if type_at(config, override.path) is None:
        raise UserError(_unknown(config, override.path, override.typed, known))
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
    return f"{path}: no such option{typed}{hint}\n  `tune run RECIPE --help` lists the options"


def _not_an_override(config: type[Struct], word: str, known: Sequence[str]) -> str:
    if word.startswith("-"):
        return f"{word}: no such option{did_you_mean(word, known)}\n  `tune run --help` lists the options"
    if type_at(config, _normal(word)) is not None:
        return f"{word}: a value must follow, as in `{word}=VALUE`"
    return f"{word}: not understood; an option of the recipe is set as `optim.lr=1e-4` or `--optim.lr 1e-4`"


def _normal(name: str) -> str:
    return name.replace("-", "_")


def value_of(override: Override, annotation: Any) -> Any:
    """Return the value that an override's text means for an option of this type.

    For text it is taken as it stands, unless it is wholly in double quotes (then a JSON string); a list or a
    mapping in brackets is read as YAML where the option takes one; everything else is read as YAML.

    Raises:
        UserError: The text is not valid JSON or YAML.
    """
    text = override.text or ""
    if takes_text(annotation) and not (takes_list(annotation) and text.startswith("[")):
        if len(text) >= 2 and text[0] == text[-1] == '"':
            try:
                return escape(msgspec.json.decode(text, type=str))
            except msgspec.DecodeError as error:
                raise UserError(f"{override.typed}: not a valid JSON string: {error}") from None
        return escape(text)
    return _yaml_value(override, text)


def _yaml_value(override: Override, text: str) -> Any:
    import omegaconf
    import yaml

    try:
        parsed: Any = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.create(f"value: {text}"))
        return parsed["value"]
    except (yaml.YAMLError, omegaconf.errors.OmegaConfBaseException, KeyError) as error:
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{override.typed}: not a valid value: {reason}") from None


def escape(text: str) -> str:
    """Return text as OmegaConf must be given it so that no interpolation is seen in it."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)
