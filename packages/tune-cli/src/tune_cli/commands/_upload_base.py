"""What the configurations that `tune upload` publishes say of folders: none but this machine knows those."""

import json
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from tune_cli.commands._upload_source import ADAPTER_CONFIG, Source
from tune_cli.output import warn

if TYPE_CHECKING:
    from tune_hub.client import Client

_NAMED = "_name_or_path"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_OWN_FOLDER = re.compile(r"[/~\\]|[A-Za-z]:[/\\]")
"""How a path begins that means something on one machine alone."""
_VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"})
"""Files of words, any of which may be one of a path."""
_MAX_TEXT_BYTES = 4 << 20


def with_base_named(source: Source, client: "Client | None" = None) -> tuple[Source, str | None]:
    """Let every configuration name models as others can load them; the folder itself stays as it is.

    Args:
        source: What is published.
        client: Asked whether a base that is no folder is a repository; None takes the name for one.

    Returns:
        The source, and the repository of an adapter's base.

    Raises:
        RefusedError: Nobody but this machine knows the base.
        HubError: The Hub cannot be asked.
    """
    from tune_hub.upload_files import with_contents

    contents: dict[str, bytes] = {}
    base: str | None = None
    for file in source.files:
        path, name = place_of(source, file.path), PurePosixPath(file.path).name
        if name == ADAPTER_CONFIG and path.is_file():
            config = _object_in(path)
            named = str(config.get("base_model_name_or_path") or "")
            public = _repository(source, path, named, client)
            if file.path == ADAPTER_CONFIG:
                base = public
            if public != named:
                contents[file.path] = _json({**config, "base_model_name_or_path": public})
                warn([f"{file.path}: uploaded with {public} as the base model, in place of {named}"])
        elif name == "config.json" and path.is_file() and (content := _without_folders(path)):
            contents[file.path] = content
            warn([f"{file.path}: uploaded without the folder of this machine in {_NAMED}"])
    if contents:
        source = source._replace(files=with_contents(source.files, contents))
    _warn_of_home(source)
    return source, base


def place_of(source: Source, path: str) -> Path:
    """Return where a file of the source lies, links not followed."""
    return source.path / path if source.path.is_dir() else source.path


def _repository(source: Source, config: Path, named: str, client: "Client | None") -> str:
    """Return what an adapter's base is called by those who have only the Hub."""
    from tune_cli.commands._card_facts import card_facts
    from tune_recipes.base_model import read_base_model
    from tune_recipes.catalog import expand_home
    from tune_recipes.runs import read_info

    # A relative path was one from where the training was started, or from the adapter.
    starts = [Path(), config.parent, *([Path(read_info(source.run).cwd)] if source.run else [])]
    folders = [start / expand_home(named) for start in starts] if named else []
    folder = next((folder for folder in folders if folder.is_dir()), None)
    is_asked = named and folder is None and _HUB_NAME.fullmatch(named)
    if is_asked and (client is None or _is_there(client, named)):
        return named
    known = read_base_model(str(folder) if folder else named).repository if named else None
    if not known and source.run is not None:
        known = card_facts(source.path).base_model
    if not known or (known == named and not folder):
        what = (
            f"names a folder of this machine, {named}, as its base model" if named else "names no base model"
        )
        if is_asked and client:
            what = f"names {named} as its base model: no folder here, and no repository of {client.endpoint}"
        raise _no_base(source, config, named, what)
    return known


def _is_there(client: "Client", repository: str) -> bool:
    from tune_hub.client import asked
    from tune_hub.errors import AccessError, RepositoryNotFoundError

    try:
        asked(client, repository, lambda: client.api.model_info(repository))
    except RepositoryNotFoundError:
        return False
    except AccessError:  # there, for those whom its makers let in
        return True
    return True


def _no_base(source: Source, config: Path, named: str, what: str) -> Exception:
    from tune_hub import resolve_alias
    from tune_hub.errors import RefusedError
    from tune_recipes.catalog import shown

    likely = resolve_alias(Path(named).name) or "ORGANISATION/MODEL"
    adapter = config.parent if source.path.is_dir() else source.path.parent
    return RefusedError(
        f"{config}: {what}; others could not load the adapter\n"
        f'  write the repository of the base there: "base_model_name_or_path": "{likely}"\n'
        f"  or publish the merged model: `tune convert-ckpt {shown(named or 'BASE')} "
        f"--adapter {shown(adapter)} --output-dir merged`"
    )


def _without_folders(path: Path) -> bytes | None:
    """Return a model's configuration without folders of this machine; None if it names none."""
    try:
        value: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # which the check of the weights tells
        return None
    return _json(value) if _blank_folders_(value) else None


def _blank_folders_(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    config = cast("dict[str, Any]", value)
    changed = [_blank_folders_(part) for part in config.values()]
    named = config.get(_NAMED)
    if isinstance(named, str) and _OWN_FOLDER.match(named):
        config[_NAMED] = ""
        return True
    return any(changed)


def _warn_of_home(source: Source) -> None:
    """Warn of text that tells who has written it, and where."""
    home = str(Path.home()).rstrip("/").encode()
    if not home:
        return
    pattern = re.compile(rb"(?<![\w.-])" + re.escape(home) + rb"(?![\w.-])")
    found: list[str] = []
    for file in source.files:
        if file.size > _MAX_TEXT_BYTES or PurePosixPath(file.path).name in _VOCABULARIES:
            continue
        try:
            content = file.source.read_bytes() if file.source else file.content
        except OSError:  # which sending it tells
            continue
        if b"\0" not in content and pattern.search(content):
            found.append(file.path)
    if found:
        more = f" and {len(found) - 5} more files" if len(found) > 5 else ""
        warn([f"{', '.join(found[:5])}{more}: tells of your home folder, {home.decode(errors='replace')}"])


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _object_in(path: Path) -> dict[str, Any]:
    from tune_recipes.errors import UserError

    try:
        value: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: damaged: expected a JSON object")
    return cast("dict[str, Any]", value)
