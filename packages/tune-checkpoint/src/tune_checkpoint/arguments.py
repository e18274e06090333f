"""What command lines make of their words: sizes, and the folder to write where none is named."""

import re
from pathlib import Path

from tune_checkpoint.errors import CheckpointError
from tune_checkpoint.threads import MAX_JOBS

UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
SUFFIXES = (".gguf", ".safetensors", ".bin", ".pth", ".pt")
USUAL_SIZE = "5GB"
COMMON = ("model", "pytorch_model", "consolidated", "consolidated.00", "lit_model")
"""Names that files have in every folder: the folder's tells more."""
PART = re.compile(r"-\d{5}-of-\d{5}$")


class ArgumentError(CheckpointError):
    """A word of the command line has no meaning here."""


def parse_size(text: str | None) -> int:
    """Read a number of bytes: `5GB`, `500MB`, `1.5 GiB`, `1000000`; None is the usual size of a file.

    Raises:
        ArgumentError: it is none.
    """
    text = USUAL_SIZE if text is None else text
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([kmgt]?i?)b?", text.strip(), re.IGNORECASE)
    unit = match[2].lower() if match else ""
    size = int(float(match[1]) * UNITS[unit]) if match and unit in UNITS else 0
    if size <= 0:
        raise ArgumentError(f"{text!r} is no size; write 5GB, 500MB or a number of bytes")
    return size


def check_arguments(
    *,
    to: str = "hf",
    quant: str | None = None,
    dtype: str | None = None,
    max_shard_size: str | None = None,
    jobs: int | None = None,
) -> None:
    """Refuse what cannot be, in the words of the command line.

    Raises:
        ArgumentError: a type of quantisation that does not exist; what nothing takes; no number of jobs.
    """
    if quant is not None:
        from tune_checkpoint.gguf.target import QUANTS

        if to != "gguf":
            raise ArgumentError(f"--quant {quant}: only a GGUF file is quantised; add --to gguf")
        if quant.lower() not in QUANTS:
            raise ArgumentError(f"--quant {quant}: no such type; one of {', '.join(QUANTS)}")
    if dtype is not None and quant is not None:
        raise ArgumentError(
            f"--dtype {dtype} with --quant {quant}: both say what the weights become; leave one out"
        )
    if to != "hf" and max_shard_size is not None:
        raise ArgumentError(
            f"--max-shard-size {max_shard_size} with --to {to}: that is one file; leave it out"
        )
    if jobs is not None and not 1 <= jobs <= MAX_JOBS:
        raise ArgumentError(f"--jobs {jobs}: a number from 1 to {MAX_JOBS} is wanted")


def default_output_dir(src: Path | str, to: str, quant: str | None = None) -> Path:
    """The folder that a conversion writes where none is named: `<stem of src>-hf`, in the current folder.

    Args:
        src: what is converted.
        to: what is made of it: `hf`, `meta`, `gguf`; `merged` of an adapter.
        quant: the type of a GGUF file's matrices, which goes into the name too.
    """
    src = Path(src)
    name = src.resolve().name if src.name in ("", "..") else src.name
    if src.suffix in SUFFIXES and not src.is_dir():
        name = PART.sub("", name.removesuffix(src.suffix))
        name = src.resolve().parent.name if name in COMMON else name
    name = re.sub("-(hf|meta)$", "", name)  # what an earlier conversion was named after
    return Path("-".join((name or "checkpoint", to, *([quant.lower()] if quant else []))))
