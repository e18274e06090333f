"""`tune download`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cyclopts import Parameter

from tune_cli.hub_token import HfToken, read_token
from tune_cli.output import print_json, warn

if TYPE_CHECKING:
    from tune_hub import DownloadResult


class _Asked(NamedTuple):
    """What the command line says of what is downloaded, and how."""

    model: str
    output_dir: Path
    token: str | None
    convert: bool
    revision: str | None
    include: list[str]
    exclude: list[str]
    force: bool
    json: bool


def download(
    model: str | None = None,
    /,
    *,
    output_dir: Annotated[Path | None, Parameter(metavar="DIR")] = None,
    hf_token: HfToken = None,
    convert: Annotated[bool, Parameter(negative="--no-convert")] = True,
    revision: Annotated[str | None, Parameter(metavar="REV")] = None,
    include: Annotated[list[str] | None, Parameter(metavar="GLOB")] = None,
    exclude: Annotated[list[str] | None, Parameter(metavar="GLOB")] = None,
    dry_run: bool = False,
    force: Annotated[bool, Parameter(name=["--force", "-f"])] = False,
    json: bool = False,
    list_: Annotated[bool, Parameter(name="--list")] = False,
    online: bool = False,
) -> int:
    """Download a model from the Hugging Face Hub, ready to train.

    Args:
        model: A short name that --list shows, or ORGANISATION/MODEL.
        output_dir: Folder to fill. By default models/MODEL, here.
        hf_token: Token for gated and private models. By default HF_TOKEN, or what `hf auth login`
            left; `-` reads standard input.
        convert: Convert weights that are not safetensors, which training needs; the default.
        revision: Branch, tag or commit. By default the main branch.
        include: Only files whose names fit; may be given several times. By default what training needs.
        exclude: No files whose names fit; may be given several times.
        dry_run: Print what would be fetched, and stop.
        force: Replace files in the folder that are not the repository's.
        json: Print one JSON object.
        list_: Print the short names and their repositories.
        online: With --list: also size, licence and whether access must be asked for.
    """
    from tune_checkpoint.interrupts import heeding_sigterm, status_of

    if list_ or online:
        return _list(model, online=online, token=hf_token, json=json)
    folder = output_dir or _default_folder(model)
    token = read_token(hf_token)
    asked = _Asked(model or "", folder, token, convert, revision, include or [], exclude or [], force, json)
    try:
        with heeding_sigterm():
            return _show_plan(asked) if dry_run else _download(asked)
    except KeyboardInterrupt as stop:
        print("error: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return status_of(stop)


def _default_folder(model: str | None) -> Path:
    from tune_hub.aliases import repository_of, resolve_alias
    from tune_recipes.errors import UserError

    if model is None:
        raise UserError("MODEL is missing\n  `tune download --list` lists the short names")
    name = model.lower() if resolve_alias(model) else repository_of(model).partition("/")[2]
    return Path("models") / name


def _list(model: str | None, *, online: bool, token: str | None, json: bool) -> int:
    from tune_cli.commands._model_list import list_models, model_lines, online_models
    from tune_recipes.errors import UserError

    if model is not None:
        raise UserError(f"--list takes no MODEL\n  `tune download {model} --dry-run` shows what it has")
    models = online_models(read_token(token)) if online else list_models()
    print_json(models) if json else print("\n".join(model_lines(models)))
    return 0


def _show_plan(asked: _Asked) -> int:
    from tune_cli.commands._downloaded import plan_json, plan_lines
    from tune_hub import plan_download

    plan = plan_download(
        asked.model,
        asked.output_dir,
        revision=asked.revision,
        token=asked.token,
        include=asked.include,
        exclude=asked.exclude,
    )
    print_json(plan_json(plan)) if asked.json else print("\n".join(plan_lines(plan, convert=asked.convert)))
    return 0


def _download(asked: _Asked) -> int:
    from tune_cli.commands._converted import converted_folder
    from tune_cli.commands._downloaded import Reporting, result_json, result_lines
    from tune_hub import download as fetch

    if asked.convert:
        converted_folder(asked.output_dir)  # where there can be none, nothing is fetched
    with Reporting() as events:
        result = fetch(
            asked.model,
            asked.output_dir,
            revision=asked.revision,
            token=asked.token,
            include=asked.include,
            exclude=asked.exclude,
            force=asked.force,
            events=events,
        )
    try:
        trained, missing = _trainable(asked, result)
    except Exception:
        print(f"downloaded to {result.output_dir}, but not converted:", file=sys.stderr)
        raise
    if asked.json:
        print_json(result_json(result, trained, missing))
    else:
        print("\n".join(result_lines(result, trained, missing)))
    return 0


def _trainable(asked: _Asked, result: "DownloadResult") -> tuple[Path | None, list[str]]:
    """Return the folder to train on, which is made by conversion where it must be, or what it lacks."""
    from tune_cli.commands._converted import converted, missing_to_train, needs_conversion
    from tune_hub.weights import has_safetensors, has_weights

    if needs_conversion(result.files):
        if not asked.convert:
            return None, []
        folder, warnings = converted(result, force=asked.force)
        warn(warnings)
        return folder, []
    if has_weights(result.files) and not has_safetensors(result.files):
        return None, []  # an adapter of another kind
    missing = missing_to_train(result.output_dir)
    return (None if missing else result.output_dir), missing
