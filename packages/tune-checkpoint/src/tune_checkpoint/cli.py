"""The command `tune-checkpoint`."""

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tune_checkpoint.arguments import check_arguments, default_output_dir, parse_size
from tune_checkpoint.cli_words import make_parser
from tune_checkpoint.errors import CheckpointError
from tune_checkpoint.interrupts import GOES_ON, heeding_sigterm, status_of
from tune_checkpoint.plain import json_text, printable_text

DIFFERENT, TROUBLE = 1, 2
"""How `diff` ends, besides 0."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: its words; None takes those of the process.

    Returns:
        The exit status: 0, 1 where something failed or differs, 2 for wrong input, 130 after Ctrl-C and
        143 after SIGTERM.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    command = words[0] if words else ""
    try:
        for stream in (sys.stdout, sys.stderr):
            _show_every_sign(stream)
        with heeding_sigterm():
            status = _run(words)
        sys.stdout.flush()
    except SystemExit as end:  # of the parser, which has said why
        return end.code if isinstance(end.code, int) else TROUBLE
    except CheckpointError as error:
        return _fail(str(error), TROUBLE if command == "diff" else error.exit_status)
    except KeyboardInterrupt as stop:
        is_kept = command in ("convert", "merge")
        return _fail(f"interrupted{'; ' + GOES_ON if is_kept else ''}", status_of(stop))
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return TROUBLE if command == "diff" else 1
    except OSError as error:
        where = error.filename or "standard output"
        return _fail(f"{where}: {error.strerror}", TROUBLE if command == "diff" else 1)
    return status


def _run(words: list[str]) -> int:
    if words in (["--version"], ["-V"]):
        from importlib.metadata import version

        print(f"tune-checkpoint {version('tune-checkpoint')}")
        return 0
    arguments = make_parser().parse_args(words or ["--help"])
    return COMMANDS[arguments.command](arguments)


def _fail(message: str, status: int) -> int:
    print(f"error: {printable_text(message)}", file=sys.stderr)
    return status


def _show_every_sign(stream: Any) -> None:
    """Let a terminal that lacks a sign, as in the name of a file, show its number instead."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _convert(words: Namespace) -> int:
    size = parse_size(words.max_shard_size)
    check_arguments(
        to=words.to,
        quant=words.quant,
        dtype=words.dtype,
        max_shard_size=words.max_shard_size,
        jobs=words.jobs,
    )
    options: dict[str, Any] = {
        "to": words.to,
        "kind": words.kind,
        "dtype": words.dtype,
        "adapter": words.adapter,
        "quant": words.quant,
    }
    output_dir = words.output_dir or default_output_dir(words.src, words.to, words.quant)
    if words.dry_run:
        return _dry_run(words, output_dir, options)
    from tune_checkpoint import convert
    from tune_checkpoint.progress import ProgressLine

    with ProgressLine("converting") as progress:
        result = convert(
            words.src,
            output_dir,
            **options,
            force=words.force,
            max_shard_size=size,
            verify=words.verify,
            jobs=words.jobs,
            progress=progress,
        )
    return _report(words, result)


def _dry_run(words: Namespace, output_dir: Path, options: dict[str, Any]) -> int:
    from tune_checkpoint import plan_conversion
    from tune_checkpoint.conversion_text import plan_json, plan_lines

    plan = plan_conversion(words.src, **options, output_dir=output_dir, force=words.force)
    _warn(plan.warnings)
    _print(words, plan_json(plan, output_dir), lambda: plan_lines(plan, output_dir))
    return 0


def _merge(words: Namespace) -> int:
    size = parse_size(words.max_shard_size)
    from tune_checkpoint.peft.merge import merge_adapter
    from tune_checkpoint.progress import ProgressLine

    with ProgressLine("merging") as progress:
        result = merge_adapter(
            words.base,
            words.adapter,
            words.output_dir or default_output_dir(words.adapter, "merged"),
            dtype=words.dtype,
            force=words.force,
            max_shard_size=size,
            verify=words.verify,
            jobs=words.jobs,
            progress=progress,
        )
    return _report(words, result)


def _report(words: Namespace, result: Any) -> int:
    from tune_checkpoint.conversion_text import conversion_lines

    _warn(result.warnings)
    look = f"tune-checkpoint inspect {shlex.quote(result.output_dir)}"
    _print(words, result, lambda: conversion_lines(result, next_commands=[look]))
    return 0


def _inspect(words: Namespace) -> int:
    from tune_checkpoint._inspect import inspect
    from tune_checkpoint.text import inspection_lines

    found = inspect(words.path)
    _print(words, found, lambda: inspection_lines(found, tensors=words.tensors))
    return 0


def _verify(words: Namespace) -> int:
    from tune_checkpoint._verify import verify
    from tune_checkpoint.progress import ProgressLine
    from tune_checkpoint.text import verification_lines

    with ProgressLine("verifying") as progress:
        found = verify(words.path, jobs=words.jobs, progress=progress)
    _print(words, found, lambda: verification_lines(found))
    return 0 if found.ok else 1


def _diff(words: Namespace) -> int:
    from tune_checkpoint._diff import diff
    from tune_checkpoint.progress import ProgressLine
    from tune_checkpoint.text import difference_lines

    with ProgressLine("comparing") as progress:
        found = diff(words.a, words.b, jobs=words.jobs, progress=progress)
    _print(words, found, lambda: difference_lines(found))
    return 0 if found.identical else DIFFERENT


def _print(words: Namespace, value: Any, lines: Callable[[], list[str]]) -> None:
    """Print a result, as JSON if that was asked for."""
    if words.json:
        print(json_text(value))
    else:
        print("\n".join(lines()))


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"warning: {printable_text(warning)}", file=sys.stderr)


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "convert": _convert,
    "merge": _merge,
    "inspect": _inspect,
    "verify": _verify,
    "diff": _diff,
}
