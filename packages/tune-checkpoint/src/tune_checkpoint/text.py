"""What is found in checkpoints, as lines of plain text for a terminal of 80 to 100 columns."""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from tune_checkpoint.folding import fold
from tune_checkpoint.plain import printable_line

if TYPE_CHECKING:
    from tune_checkpoint._diff import Difference, OnlyIn, TensorDifference
    from tune_checkpoint._inspect import Inspection, TensorInfo
    from tune_checkpoint._verify import Verification
    from tune_checkpoint.listing import AnyKind

WIDTH = 88
LABEL = 14
"""Columns of a label on the left."""
MAX_FILES = 6
MAX_ROWS = 40
"""Lines of a table, before the rest is only counted."""

KIND_NAMES: "dict[AnyKind, str]" = {
    "hf": "Hugging Face",
    "meta": "Meta",
    "mistral": "Mistral",
    "gguf": "GGUF",
    "torchtune": "torchtune",
    "litgpt": "LitGPT",
    "torch": "torch.save",
    "adapter": "PEFT adapter",
}


def size_text(num_bytes: float) -> str:
    """Say a number of bytes: `1.2 GB`."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        num_bytes /= 1000
        if num_bytes < 999.95:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1000:.1f} TB"


def count_text(count: int) -> str:
    """Say a number in three digits: `135M`."""
    if count < 1000:
        return str(count)
    value = float(count)
    for unit in ("K", "M", "B"):
        value /= 1000
        if value < 999.5:
            return f"{value:#.3g}".rstrip(".") + unit
    return f"{value / 1000:,.2f}T"


def seconds_text(seconds: float) -> str:
    """Say a duration: `0.4 s`, `1:05`, `2:03:04`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def inspection_lines(found: "Inspection", *, tensors: bool = False) -> list[str]:
    """Say what a checkpoint holds.

    Args:
        found: what `inspect` found.
        tensors: list each tensor, instead of identical layers together.
    """
    weights = [file for file in found.files if file.num_tensors]
    facts = [
        ("kind", _kind(found)),
        ("architecture", _architecture(found)),
        ("parameters", f"{count_text(found.num_parameters)} ({found.num_parameters:,})"),
        (
            "weights",
            f"{size_text(found.nbytes)} in {_counted(len(weights), 'file')}, {len(found.tensors):,} tensors",
        ),
        (
            "types",
            ", ".join(
                f"{t.dtype} {size_text(t.nbytes)} ({count_text(t.num_elements)})" for t in found.dtypes
            ),
        ),
        ("sizes", _sizes(found)),
        ("adapter", _adapter(found)),
        ("tied", ", ".join(f"{name} = {other}" for name, other in found.tied[:2])),
        ("files", _files(found)),
    ]
    lines = [found.path]
    for label, text in facts:
        if text:
            lines.extend(labelled(label, text))
    listed = _each_line(found.tensors) if tensors else _folded_lines(found.tensors)
    return printable([*lines, "", *listed])


def verification_lines(found: "Verification") -> list[str]:
    """Say what is wrong with a checkpoint, and what was looked at."""
    read = f"{size_text(found.nbytes)} in {seconds_text(found.seconds)}"
    if found.ok:
        lines = [f"ok: {found.path}: {found.num_tensors:,} tensors, {read}"]
    else:
        lines = [f"{found.path}: {_counted(len(found.problems), 'problem')}"]
        lines += [f"  {line}" for item in found.problems for line in item.message.split("\n")]
    lines += labelled("checked", ", ".join(found.checked) or "nothing")
    for item in found.not_checked:
        lines += labelled("not checked", item)
    for item in found.notes:
        lines += labelled("note", item)
    return printable(lines)


def difference_lines(found: "Difference") -> list[str]:
    """Say how two checkpoints differ, the largest difference first; layers that differ alike are one line."""
    if found.identical:
        left_out = (
            f" ({', '.join(found.left_out)} in one only, which loses nothing)" if found.left_out else ""
        )
        return printable(
            [f"identical: {found.num_common:,} tensors, {found.num_elements:,} elements{left_out}"]
        )
    lines = [f"A  {found.a}", f"B  {found.b}"]
    for side, only in (("A", found.only_in_a), ("B", found.only_in_b)):
        if only:
            lines += ["", f"only in {side}: {_counted(len(only), 'tensor')}", *_folded_lines(only)]
    by_shape = [tensor for tensor in found.tensors if tensor.num_different is None]
    if by_shape:
        lines += ["", f"other shapes: {_counted(len(by_shape), 'tensor')}", *_shape_lines(by_shape)]
    types = Counter((t.dtype_a, t.dtype_b) for t in found.tensors if t.dtype_a != t.dtype_b)
    if types:
        lines += ["", f"other types: {_counted(types.total(), 'tensor')}"]
        lines += table([(f"{a} in A, {b} in B", times(count)) for (a, b), count in types.most_common()])
    by_value = [tensor for tensor in found.tensors if tensor.num_different]
    if by_value:
        lines += ["", f"other values: {_counted(len(by_value), 'tensor')}", *_value_lines(by_value)]
    return printable([*lines, "", _summary(found)])


def _kind(found: "Inspection") -> str:
    what = "folder" if len(found.files) > 1 or Path(found.path).is_dir() else "file"
    name = KIND_NAMES[found.kind]
    if found.kind == "adapter":
        return f"{name} ({found.format})"
    return f"{name} {what}" if found.kind in ("gguf", "torch") else f"{name} {what} ({found.format})"


def _architecture(found: "Inspection") -> str:
    if found.architecture is None:
        return ""
    told_by = "" if found.architecture_from == "config.json" else f" (from {found.architecture_from})"
    return f"{found.architecture}{told_by}"


def _sizes(found: "Inspection") -> str:
    sizes = found.sizes
    named = {
        "layers": sizes.num_hidden_layers,
        "hidden": sizes.hidden_size,
        "feed-forward": sizes.intermediate_size,
        "heads": sizes.num_attention_heads,
        "key-value heads": sizes.num_key_value_heads,
        "head size": sizes.head_dim,
        "vocabulary": sizes.vocab_size,
        "context": sizes.max_position_embeddings,
    }
    return ", ".join(f"{name} {size:,}" for name, size in named.items() if size)


def _adapter(found: "Inspection") -> str:
    adapter = found.adapter
    if adapter is None:
        return ""
    parts = [" ".join((adapter.type or "of no known type", *adapter.variants))]
    if adapter.rank is not None:
        parts.append(f"rank {adapter.rank}")
    if adapter.alpha is not None:
        parts.append(f"alpha {adapter.alpha:g}")
    if adapter.targets:
        parts.append(f"changes {', '.join(adapter.targets)}")
    if adapter.base_model:
        parts.append(f"for {adapter.base_model}")
    return ", ".join(parts)


def _files(found: "Inspection") -> str:
    """Names, with the sizes of those with weights. Of a file that was asked for, nothing new."""
    if len(found.files) < 2:
        return ""
    names = [f"{f.name} ({size_text(f.nbytes)})" if f.num_tensors else f.name for f in found.files]
    more = f", and {len(names) - MAX_FILES} more" if len(names) > MAX_FILES else ""
    return ", ".join(names[:MAX_FILES]) + more


def _each_line(tensors: "Sequence[TensorInfo]") -> list[str]:
    return table([(t.name, str(list(t.shape)), t.dtype) for t in tensors])


def _folded_lines(tensors: "Sequence[TensorInfo | OnlyIn]") -> list[str]:
    """A line for each group of layers."""
    groups = fold((t.name, (t.dtype, t.shape)) for t in tensors)
    firsts = [tensors[group.members[0]] for group in groups]
    rows = [
        (group.name, str(list(t.shape)), t.dtype, times(group.count))
        for group, t in zip(groups, firsts, strict=True)
    ]
    return cut(table(rows))


def _shape_lines(tensors: "Sequence[TensorDifference]") -> list[str]:
    groups = fold((t.name, (t.shape_a, t.shape_b)) for t in tensors)
    firsts = [tensors[group.members[0]] for group in groups]
    rows = [
        (group.name, f"{list(t.shape_a)} in A", f"{list(t.shape_b)} in B", times(group.count))
        for group, t in zip(groups, firsts, strict=True)
    ]
    return cut(table(rows))


def _value_lines(tensors: "Sequence[TensorDifference]") -> list[str]:
    """A line for each group of layers, with the largest difference in it."""
    rows = [("", "max abs", "max rel", "elements", "")]
    for group in fold((t.name, t.shape_a) for t in tensors):
        members = [tensors[position] for position in group.members]
        share = sum(t.num_different or 0 for t in members) / sum(prod(t.shape_a) for t in members)
        num_nan = sum(t.num_nan or 0 for t in members)
        largest = max(t.max_abs or 0.0 for t in members), max(t.max_rel or 0.0 for t in members)
        note = f"{times(group.count)}{f' {num_nan:,} NaN in one only' if num_nan else ''}".strip()
        rows.append((group.name, f"{largest[0]:.3g}", f"{largest[1]:.3g}", _percent(share), note))
    return cut(table(rows))


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%" if share >= 1e-4 else "<0.01%"


def _summary(found: "Difference") -> str:
    parts = [f"{found.num_common:,} tensors in both, {len(found.tensors):,} of them different"]
    for side, only in (("A", found.only_in_a), ("B", found.only_in_b)):
        if only:
            parts.append(f"{len(only):,} only in {side}")
    return "; ".join(parts)


def times(count: int) -> str:
    """Say how many are folded into a line; nothing of one."""
    return f"×{count:,}" if count > 1 else ""  # noqa: RUF001


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def printable(lines: Iterable[str]) -> list[str]:
    """Lines with what a terminal would obey spelled out."""
    return [printable_line(line) for line in lines]


def labelled(label: str, text: str) -> list[str]:
    """A text beside its label, broken after a comma where it is too long."""
    parts = [part.replace(" ", "\xa0") for part in text.split(", ")]
    lines = wrap(
        ", ".join(parts),
        WIDTH,
        initial_indent=label.ljust(LABEL),
        subsequent_indent=" " * LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\xa0", " ") for line in lines]


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [f"  {line}".rstrip() for line in lines]


def cut(lines: list[str]) -> list[str]:
    """The first lines of a long table, and how many there are besides."""
    if len(lines) <= MAX_ROWS:
        return lines
    return [*lines[: MAX_ROWS - 1], f"  ... and {len(lines) - MAX_ROWS + 1:,} lines like these"]
