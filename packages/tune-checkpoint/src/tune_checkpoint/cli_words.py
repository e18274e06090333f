"""The words that `tune-checkpoint` takes. A help page imports nothing of the library."""

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

# Written out, so that nothing is imported for them; a test holds them equal to what the library has.
KINDS = ("hf", "meta", "mistral", "gguf", "torchtune", "litgpt", "torch")
TARGETS = ("hf", "meta", "gguf")
DTYPES = ("fp32", "fp16", "bf16")


class _Parser(ArgumentParser):
    """A parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n  `{self.prog} --help` shows what it takes\n")


def make_parser() -> ArgumentParser:
    """Make the parser; `command` of what it returns is the name of the command."""
    parser = _Parser(
        prog="tune-checkpoint",
        description="Convert, merge, look at, check and compare language-model checkpoints, without PyTorch.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", "-V", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_convert, _add_merge, _add_inspect, _add_verify, _add_diff):
        add(commands)
    return parser


def _command(commands: Any, name: str, summary: str, examples: Sequence[str]) -> ArgumentParser:
    parser: ArgumentParser = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip(".").partition(";")[0],
        description=summary,
        epilog="\n".join(["examples:", *(f"  tune-checkpoint {name} {words}" for words in examples)]),
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=name)
    return parser


def _add_convert(commands: Any) -> None:
    examples = (
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "Llama-3.2-1B/original --output-dir llama --dtype bf16",
        "my-model --to gguf --quant q8_0",
    )
    parser = _command(commands, "convert", "Convert a checkpoint into another kind.", examples)
    parser.add_argument("src", metavar="SRC", help="a checkpoint: a folder or a file of any kind")
    parser.add_argument("--to", choices=TARGETS, default="hf", help="what to make (default: hf)")
    parser.add_argument(
        "--from",
        dest="kind",
        choices=KINDS,
        metavar="KIND",
        help=f"what SRC is, if not as found: {', '.join(KINDS)}",
    )
    parser.add_argument("--adapter", metavar="DIR", help="a PEFT adapter to merge into the weights")
    parser.add_argument(
        "--quant", metavar="TYPE", type=str.lower, help="with --to gguf: f32, f16, bf16, q8_0, q4_0, ..."
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and stop")
    _add_output_options(parser)


def _add_merge(commands: Any) -> None:
    examples = ("my-model runs/1/final --output-dir merged",)
    parser = _command(
        commands, "merge", "Merge a PEFT adapter into the model that it was trained on.", examples
    )
    parser.add_argument("base", metavar="BASE", help="the model: a folder or a file of any kind")
    parser.add_argument("adapter", metavar="ADAPTER", help="a folder with adapter_config.json")
    _add_output_options(parser)


def _add_output_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--output-dir", metavar="DIR", type=Path, help="folder to write (default: named after the source)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="type of the weights (default: as they are)")
    parser.add_argument("--max-shard-size", metavar="SIZE", help="of a file of weights (default: 5GB)")
    parser.add_argument(
        "--verify",
        action=BooleanOptionalAction,
        default=True,
        help="read again and compare what was written (default: yes)",
    )
    parser.add_argument(
        "--force", "-f", action="store_true", help="replace DIR if it is the folder of a model"
    )
    _add_common(parser)
    _add_jobs(parser)


def _add_inspect(commands: Any) -> None:
    parser = _command(commands, "inspect", "Say what a checkpoint holds, from headers alone.", ("my-model",))
    parser.add_argument("path", metavar="PATH", help="a checkpoint or an adapter: a folder or a file")
    parser.add_argument("--tensors", action="store_true", help="list each tensor, and not layers together")
    _add_common(parser)


def _add_verify(commands: Any) -> None:
    summary = "Read a whole checkpoint and report all that is wrong with it."
    parser = _command(commands, "verify", summary, ("my-model",))
    parser.add_argument("path", metavar="PATH", help="a checkpoint or an adapter: a folder or a file")
    _add_common(parser)
    _add_jobs(parser)


def _add_diff(commands: Any) -> None:
    summary = "Compare two checkpoints; end with 0 if equal, 1 if not, 2 in trouble."
    parser = _command(commands, "diff", summary, ("my-model model.Q8_0.gguf",))
    parser.add_argument("a", metavar="A", help="a checkpoint of any kind, or an adapter")
    parser.add_argument("b", metavar="B", help="another")
    _add_common(parser)
    _add_jobs(parser)


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_jobs(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", "-j", type=_jobs, metavar="N", help="tensors worked on at a time (default: cores)"
    )


def _jobs(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 32:
        raise ArgumentTypeError(f"{text!r} is no number from 1 to 32")
    return int(text)
