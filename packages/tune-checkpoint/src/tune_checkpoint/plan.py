"""What a conversion will do, as data: made from headers alone, carried out by `tune_checkpoint.execute`."""

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Literal, get_args

from msgspec import Struct

from tune_checkpoint.dtypes import num_bytes
from tune_checkpoint.errors import reading

Kind = Literal["hf", "meta", "mistral", "gguf", "torchtune", "litgpt", "torch"]
"""Of a checkpoint. `hf`: a Hugging Face folder or a file of safetensors; `torch`: what `torch.save` wrote,
under Hugging Face's names."""

KINDS: tuple[Kind, ...] = get_args(Kind)

Target = Literal["hf", "meta", "gguf"]
"""What can be written: a Hugging Face folder, a folder as Meta publishes it, or a folder with a GGUF file."""

TARGETS: tuple[Target, ...] = get_args(Target)


MAX_DIMS = 32
"""Of a tensor: as many as every version of numpy can show."""
CHUNK_BYTES = 1 << 22
"""Of a file that is copied."""


class TensorSlice(Struct, frozen=True):
    """Where a tensor's bytes lie in a source file."""

    path: str
    """The file."""
    name: str
    """The tensor's name there, for messages."""
    dtype: str
    """As safetensors spells it (`BF16`), or a block type of GGUF (`Q4_1`)."""
    shape: tuple[int, ...]
    """Outermost dimension first, as numpy and torch have it."""
    offset: int
    """From the start of the file, in bytes."""
    nbytes: int
    """Of its elements."""
    strides: tuple[int, ...] | None = None
    """Steps between elements, in elements, where they do not lie in C order one behind the other."""
    crc32: int | None = None
    """CRC-32 of its bytes as the file states it, where it does."""


class ReorderHeads(Struct, frozen=True, tag=True):
    """Reorder the rows within each head of a query or key projection, to rotate them in another way.

    Hugging Face rotates the two halves of a head against each other, Meta and llama.cpp neighbouring pairs.
    """

    num_heads: int
    to: Literal["halves", "pairs"]


class Dequantise(Struct, frozen=True, tag=True):
    """Expand quantised blocks to F32."""


class Cast(Struct, frozen=True, tag=True):
    """Round each element to another floating-point type."""

    dtype: str


class Quantise(Struct, frozen=True, tag=True):
    """Round the elements of each row to blocks of a quantised type of GGUF."""

    dtype: str


class AddLowRank(Struct, frozen=True, tag=True):
    """Add the product of two narrow matrices, as LoRA does. What follows gets F32."""

    rows: TensorSlice
    """(R, rank): one for each of the R rows of the tensor."""
    columns: TensorSlice
    """(rank, C)."""
    scale: float

    @property
    def inputs(self) -> tuple[TensorSlice, ...]:
        """What is read for it."""
        return self.rows, self.columns


class SetNorms(Struct, frozen=True, tag=True):
    """Give each row or each column a new length, as DoRA does. What follows gets F32."""

    norms: TensorSlice
    axis: Literal[0, 1]
    """Of the rows (0) or of the columns (1), for which the tensor is gone through once more."""

    @property
    def inputs(self) -> tuple[TensorSlice, ...]:
        """What is read for it."""
        return (self.norms,)


class SetRows(Struct, frozen=True, tag=True):
    """Put others in the place of some rows. What follows gets F32."""

    rows: tuple[int, ...]
    values: TensorSlice

    @property
    def inputs(self) -> tuple[TensorSlice, ...]:
        """What is read for it."""
        return (self.values,)


Merge = AddLowRank | SetNorms | SetRows
"""What reads more than the tensor's sources."""

Op = ReorderHeads | Dequantise | Cast | Quantise | Merge

Progress = Callable[[int, int], None]
"""Called while a plan is carried out, with the bytes done and the bytes in all: of the weights written, and
of those read again to verify them. Any thread calls it, but one at a time."""


class TensorPlan(Struct, frozen=True):
    """One output tensor and how it is made."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sources: tuple[TensorSlice, ...]
    """What it is put together from."""
    axis: Literal[0, 1] = 0
    """The sources' rows follow one another (0), or each has some of the columns of every row (1)."""
    ops: tuple[Op, ...] = ()
    """Applied in this order to the rows of all sources together, a block of rows at a time."""
    content: bytes = b""
    """The bytes themselves, of a small tensor that no source has."""

    @property
    def inputs(self) -> tuple[TensorSlice, ...]:
        """All that is read for it: the sources, and what operations bring."""
        merges = [op for op in self.ops if isinstance(op, Merge)]
        return (*self.sources, *(tensor for op in merges for tensor in op.inputs))

    @property
    def nbytes(self) -> int:
        """Bytes of the output."""
        return num_bytes(self.dtype, self.shape)


class SideFile(Struct, frozen=True):
    """A small file that goes beside the weights: `config.json`, `tokenizer.json`, ..."""

    name: str
    made: bytes = b""
    """What is in it, where it is no copy."""
    path: str | None = None
    """What it is a copy of. That is not held in memory, for there may be many."""

    @property
    def content(self) -> bytes:
        """What is in it."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The same, in pieces.

        Raises:
            ReadFailedError: the system cannot read the file that it is a copy of.
        """
        if self.path is None:
            yield self.made
            return
        with reading(self.path), Path(self.path).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


class Plan(Struct, frozen=True):
    """A whole conversion: every weight, and the files beside them."""

    source: str
    """The path that was given."""
    kind: Kind
    """What was found there."""
    architecture: str
    tensors: tuple[TensorPlan, ...]
    files: tuple[SideFile, ...]
    warnings: tuple[str, ...]
    """What the source lacks and cannot be made, one sentence each."""
    target: Target = "hf"
    preamble: bytes = b""
    """What a GGUF file has before its table of tensors: magic, counts and metadata."""

    @property
    def nbytes(self) -> int:
        """Bytes of all output tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def num_parameters(self) -> int:
        """Elements of all output tensors."""
        return sum(prod(tensor.shape) for tensor in self.tensors)
