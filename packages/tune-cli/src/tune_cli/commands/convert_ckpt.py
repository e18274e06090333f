"""`tune convert-ckpt`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from cyclopts import Parameter

from tune_checkpoint.plan import Kind, Target
from tune_cli.output import print_json, warn

Dtype = Literal["fp32", "fp16", "bf16"]


class _Asked(NamedTuple):
    """What the command line says of what is made, and where."""

    src: Path
    folder: Path
    to: Target
    kind: Kind | None
    dtype: Dtype | None
    adapter: Path | None
    quant: str | None
    force: bool


def convert_ckpt(
    src: Path,
    /,
    *,
    output_dir: Annotated[Path | None, Parameter(metavar="DIR")] = None,
    to: Target = "hf",
    from_: Annotated[Kind | None, Parameter(name="--from", metavar="KIND")] = None,
    dtype: Dtype | None = None,
    max_shard_size: Annotated[str | None, Parameter(metavar="SIZE")] = None,
    adapter: Annotated[Path | None, Parameter(metavar="DIR")] = None,
    quant: Annotated[str | None, Parameter(metavar="TYPE")] = None,
    verify: Annotated[bool, Parameter(negative="--no-verify")] = True,
    dry_run: bool = False,
    force: Annotated[bool, Parameter(name=["--force", "-f"])] = False,
    json: bool = False,
    jobs: Annotated[int | None, Parameter(name=["--jobs", "-j"], metavar="N")] = None,
) -> int:
    """Convert a checkpoint from any format to any other.

    Args:
        src: A checkpoint: a folder or a file.
        output_dir: Folder to write. By default named after SRC, here.
        to: What to make: hf (a Hugging Face folder; the default), meta or gguf.
        from_: What SRC is, if not what is found: hf, meta, mistral, gguf, torchtune, litgpt, torch.
        dtype: Number format of the weights: fp32, fp16 or bf16. By default as in SRC, and fp32 for
            quantised ones.
        max_shard_size: Of one file of weights; 5GB by default.
        adapter: PEFT adapter to merge into the weights.
        quant: With --to gguf: f32, f16, bf16, q8_0, q4_0, ...
        verify: Read again and compare what was written; the default.
        dry_run: Print what would be written, and stop.
        force: Replace the folder if it holds a model and nothing else.
        json: Print one JSON object.
        jobs: Tensors worked on at a time; by default one for each core.
    """
    from tune_checkpoint.arguments import check_arguments, default_output_dir, parse_size

    size = parse_size(max_shard_size)
    check_arguments(to=to, quant=quant, dtype=dtype, max_shard_size=max_shard_size, jobs=jobs)
    folder = output_dir or default_output_dir(src, to, quant)
    asked = _Asked(src, folder, to, from_, dtype, adapter, quant, force)
    if dry_run:
        return _show_plan(asked, json=json)
    return _convert(asked, size, verify=verify, jobs=jobs, json=json)


def _show_plan(asked: _Asked, *, json: bool) -> int:
    from tune_checkpoint import plan_conversion
    from tune_checkpoint.conversion_text import plan_json, plan_lines

    folder = asked.folder
    plan = plan_conversion(
        asked.src,
        to=asked.to,
        kind=asked.kind,
        dtype=asked.dtype,
        adapter=asked.adapter,
        quant=asked.quant,
        output_dir=folder,
        force=asked.force,
    )
    warn(plan.warnings)
    print_json(plan_json(plan, folder)) if json else print("\n".join(plan_lines(plan, folder)))
    return 0


def _convert(asked: _Asked, max_shard_size: int, *, verify: bool, jobs: int | None, json: bool) -> int:
    from tune_checkpoint import convert
    from tune_checkpoint.conversion_text import conversion_lines
    from tune_checkpoint.interrupts import GOES_ON, heeding_sigterm, status_of
    from tune_checkpoint.progress import ProgressLine

    try:
        with heeding_sigterm(), ProgressLine("converting") as progress:
            result = convert(
                asked.src,
                asked.folder,
                to=asked.to,
                kind=asked.kind,
                dtype=asked.dtype,
                adapter=asked.adapter,
                quant=asked.quant,
                force=asked.force,
                max_shard_size=max_shard_size,
                verify=verify,
                jobs=jobs,
                progress=progress,
            )
    except KeyboardInterrupt as stop:
        print(f"error: interrupted; {GOES_ON}", file=sys.stderr)
        return status_of(stop)
    warn(result.warnings)
    if json:
        print_json(result)
    else:
        print("\n".join(conversion_lines(result, next_commands=_next(result.output_dir, result.files))))
    return 0


def _next(folder: str, files: Sequence[str]) -> list[str]:
    """What can be done with a folder: to run a model takes more than its weights."""
    from tune_recipes.catalog import shown

    name = shown(Path(folder))
    if not {"config.json", "tokenizer.json"} <= set(files):
        return [f"tune inspect {name}"]
    return [
        f'tune run generate model={name} prompt="What is the capital of France?"',
        f"tune run lora_finetune model={name} data.path=FILE.jsonl",
    ]
