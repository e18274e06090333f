"""What `tune download` shows."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tune_cli.commands._converted import converted_folder, needs_conversion, tell_waiting
from tune_hub import Events

if TYPE_CHECKING:
    from tune_hub import DownloadPlan, DownloadResult
    from tune_hub.download_plan import State

STATES = {"present": "here", "cached": "link", "partial": "go on", "missing": "fetch"}
DONE = {"present": "already here", "cached": "linked from the Hub cache"}


class Reporting(Events):
    """One line that is redrawn on a terminal; elsewhere one line for each file."""

    def __init__(self) -> None:
        from tune_checkpoint.progress import ProgressLine, can_redraw

        self._is_redrawn = can_redraw()
        self._line = ProgressLine("downloading")

    def __enter__(self) -> "Reporting":
        self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.__exit__(kind, error, trace)

    def progress(self, done: int, total: int) -> None:
        """Redraw the line."""
        self._line(done, total)

    def file_done(self, name: str, size: int, state: "State") -> None:
        """Tell of a file."""
        from tune_checkpoint.plain import printable_text
        from tune_checkpoint.text import size_text

        if not self._is_redrawn:
            how = DONE.get(state, "fetched and checked")
            # In one piece: `print` writes the end of a line by itself, and several threads come here.
            sys.stderr.write(f"{printable_text(name)}: {size_text(size)}, {how}\n")
            sys.stderr.flush()

    def waiting(self, folder: Path) -> None:
        """Say why nothing moves."""
        tell_waiting(folder)


def plan_lines(plan: "DownloadPlan", *, convert: bool) -> list[str]:
    """Say what would be fetched."""
    from tune_checkpoint.plain import printable_text
    from tune_checkpoint.text import size_text

    lines = [f"{plan.snapshot.repository} at {plan.snapshot.commit[:12]}, to {plan.output_dir}"]
    lines += [
        f"  {STATES[each.state]:6} {size_text(each.file.size):>9}  {printable_text(each.file.path)}"
        for each in plan.files
    ]
    lines += [f"  would replace {printable_text(name)}, with --force" for name in plan.replaced]
    gone = [name for name in plan.stale if name not in plan.replaced]
    lines += [f"  would remove {printable_text(name)}, with --force" for name in gone]
    lines.append(
        f"{len(plan.files)} files of {size_text(plan.nbytes)}, {size_text(plan.missing_bytes)} to be fetched"
    )
    if convert and needs_conversion([each.file.path for each in plan.files]):
        lines.append(f"then converted to {converted_folder(plan.output_dir)}")
    return lines


def plan_json(plan: "DownloadPlan") -> dict[str, object]:
    """A plan as `--json` prints it."""
    return {
        "repository": plan.snapshot.repository,
        "commit": plan.snapshot.commit,
        "output_dir": str(plan.output_dir),
        "files": [
            {"path": each.file.path, "size": each.file.size, "state": each.state, "done": each.done}
            for each in plan.files
        ],
        "replaced": plan.replaced,
        "stale": plan.stale,
        "nbytes": plan.nbytes,
        "missing_bytes": plan.missing_bytes,
    }


def result_json(result: "DownloadResult", trained: Path | None, missing: Sequence[str]) -> dict[str, object]:
    """A result as `--json` prints it."""
    return {
        "repository": result.repository,
        "commit": result.commit,
        "output_dir": str(result.output_dir),
        "files": result.files,
        "nbytes": result.nbytes,
        "fetched_bytes": result.fetched_bytes,
        "train_on": None if trained is None else str(trained),
        "missing": missing,
    }


def result_lines(result: "DownloadResult", trained: Path | None, missing: Sequence[str]) -> list[str]:
    """Say what was written where, and what to do with it, or what it lacks."""
    from tune_checkpoint.plain import printable_text
    from tune_hub.client import is_offline

    lines = [f"Successfully downloaded {result.repository} and wrote to the following locations:"]
    lines += [printable_text(str(result.output_dir / name)) for name in result.files]
    if missing:
        some = printable_text(f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}")
        lines += ["", f"It cannot be trained yet; the folder lacks: {some}"]
        lines.append(
            "The Hub cache has no more; unset HF_HUB_OFFLINE to download the rest."
            if is_offline()
            else "Choose these, too, with --include, or all that training needs without it."
        )
        return lines
    if trained is None:
        return lines
    if trained != result.output_dir:
        lines += ["", f"Converted to {trained}, the folder to train on"]
    return [*lines, "", *_next_lines(trained)]


def _next_lines(folder: Path) -> list[str]:
    from tune_recipes.catalog import shown

    name = shown(folder)
    if (folder / "adapter_config.json").exists():
        base = _base_of(folder)
        return [
            f"To ask it a question, with the model that it was trained on ({base}):",
            f"  tune download {base} --output-dir models/base",
            f'  tune run generate model=models/base adapter={name} prompt="What is the capital of France?"',
        ]
    if not (folder / "tokenizer.json").exists():
        return ["To see what it holds; training takes a tokenizer.json, too:", f"  tune inspect {name}"]
    return [
        "To train it on your own data, or to ask it a question:",
        f"  tune run lora_finetune model={name} data.path=FILE.jsonl",
        f'  tune run generate model={name} prompt="What is the capital of France?"',
    ]


def _base_of(folder: Path) -> str:
    """The repository of an adapter's base model, as far as the adapter names one."""
    import json

    from tune_hub.aliases import repository_of
    from tune_hub.errors import HubError

    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
        return repository_of(str(config["base_model_name_or_path"]))
    except (OSError, ValueError, KeyError, TypeError, HubError):
        return "ORGANISATION/MODEL"
