"""What a conversion would do, and what it did, as lines of plain text."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_checkpoint.folding import fold
from tune_checkpoint.text import count_text, cut, labelled, printable, seconds_text, size_text, table, times

if TYPE_CHECKING:
    from tune_checkpoint._convert import ConversionResult
    from tune_checkpoint.plan import Plan, TensorPlan


def plan_lines(plan: "Plan", output_dir: Path) -> list[str]:
    """Say what a conversion would do; identical layers are one line."""
    steps = [_steps(tensor) for tensor in plan.tensors]
    alike = ((t.name, (t.dtype, t.shape, step)) for t, step in zip(plan.tensors, steps, strict=True))
    rows: list[tuple[str, ...]] = []
    for group in fold(alike):
        first = group.members[0]
        tensor = plan.tensors[first]
        rows.append((group.name, str(list(tensor.shape)), tensor.dtype, times(group.count), steps[first]))
    lines = [
        *labelled("from", f"{plan.source} ({plan.kind}, {plan.architecture})"),
        *labelled("to", f"{output_dir} ({plan.target})"),
        *labelled("parameters", f"{count_text(plan.num_parameters)} ({plan.num_parameters:,})"),
        *labelled("weights", f"{size_text(plan.nbytes)}, {len(plan.tensors):,} tensors"),
        *labelled("files", ", ".join(file.name for file in plan.files) or "none beside the weights"),
        "",
        *cut(table(rows)),
    ]
    return printable(lines)


def plan_json(plan: "Plan", output_dir: Path) -> dict[str, Any]:
    """The same as data."""
    return {
        "output_dir": str(output_dir),
        "source": plan.source,
        "kind": plan.kind,
        "target": plan.target,
        "architecture": plan.architecture,
        "num_parameters": plan.num_parameters,
        "nbytes": plan.nbytes,
        "files": [file.name for file in plan.files],
        "tensors": {
            tensor.name: {
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "sources": [source.name for source in tensor.sources],
                "operations": _operations(tensor),
            }
            for tensor in plan.tensors
        },
        "warnings": plan.warnings,
    }


def conversion_lines(result: "ConversionResult", *, next_commands: Sequence[str] = ()) -> list[str]:
    """Say what was written, how long that took, and what can be done with it.

    Args:
        result: what `convert` wrote.
        next_commands: command lines to propose.
    """
    rate = f"{size_text(result.nbytes / max(result.seconds, 1e-3))}/s"
    took = f"{size_text(result.nbytes)} in {seconds_text(result.seconds)} ({rate})"
    lines = [
        f"wrote {result.output_dir}: {took}, {'verified' if result.verified else 'not verified'}",
        *labelled("parameters", f"{count_text(result.num_parameters)} ({result.num_parameters:,})"),
        *labelled("files", ", ".join(result.files)),
    ]
    if next_commands:
        lines += ["next:", *(f"  {command}" for command in next_commands)]
    return printable(lines)


def _steps(tensor: "TensorPlan") -> str:
    """How a tensor is made, in a few words; nothing if it is copied."""
    parts: list[str] = []
    if len(tensor.sources) > 1:
        parts.append(f"{len(tensor.sources)} parts")
    return ", ".join((*parts, *_operations(tensor)))


def _operations(tensor: "TensorPlan") -> list[str]:
    return [type(op).__name__ for op in tensor.ops]
