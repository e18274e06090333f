"""`tune convert-ckpt`."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tune_cli.output import print_json


def convert_ckpt(
    src: Path,
    /,
    *,
    output_dir: Path,
    dtype: Literal["fp32", "fp16", "bf16"] | None = None,
    force: Annotated[bool, Parameter(name=["--force", "-f"])] = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Convert a model into a Hugging Face folder.

    Args:
        src: GGUF file of a model of the Llama family.
        output_dir: Folder to write.
        dtype: Number format of the weights: fp32, fp16 or bf16. By default as in the file, and fp32 for
            quantised ones.
        force: Replace the folder if it holds a model and nothing else.
        dry_run: Print what would be written, and stop.
        json: Print one JSON object.
    """
    from tune_checkpoint import convert, plan_conversion

    if dry_run:
        plan = plan_conversion(src, dtype=dtype)
        for warning in plan.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        files = [file.name for file in plan.files]
        tensors = {tensor.name: {"dtype": tensor.dtype, "shape": tensor.shape} for tensor in plan.tensors}
        if json:
            print_json({"architecture": plan.architecture, "files": files, "tensors": tensors})
            return
        for name, tensor in tensors.items():
            print(f"{name}  {tensor['dtype']}  {list(tensor['shape'])}")
        print(f"{plan.num_parameters:,} parameters, {plan.nbytes / 1e6:,.1f} MB, and {', '.join(files)}")
        return
    with _bar() as progress:
        result = convert(src, output_dir, dtype=dtype, force=force, progress=progress)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if json:
        print_json(result)
        return
    from tune_recipes.catalog import shown

    print(f"Converted {src.name} to {output_dir} in {result.seconds:.1f} s:")
    print(
        f"  {result.num_parameters:,} parameters, {result.num_tensors} tensors, {result.nbytes / 1e6:,.1f} MB"
    )
    print(f"  {', '.join(result.files)}")
    print("Ask it something, or fine-tune it:")
    print(f'  tune run generate model={shown(output_dir)} prompt="What is the capital of France?"')
    print(f"  tune run lora_finetune model={shown(output_dir)} data.path=FILE.jsonl")


@contextmanager
def _bar() -> Generator[Callable[[int, int], None] | None]:
    """Yield a callback that draws a bar of bytes on a terminal; None where there is to be no bar."""
    from tune_recipes.terminal import can_draw_bar

    if not can_draw_bar():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("converting")
        yield lambda done, total: bar.update(task, completed=done, total=total)
