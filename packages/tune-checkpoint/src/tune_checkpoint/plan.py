"""What a conversion will do, as data: made from headers alone, carried out by `tune_checkpoint.execute`."""

from collections.abc import Callable
from math import prod

from msgspec import Struct

from tune_checkpoint.dtypes import ITEM_BYTES


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


class UnpermuteHeads(Struct, frozen=True, tag=True):
    """Bring the rows of a query or key projection back from llama.cpp's rotary order to Hugging Face's.

    Within each head llama.cpp interleaves the two halves that Hugging Face rotates against each other.
    """

    num_heads: int


class Dequantise(Struct, frozen=True, tag=True):
    """Expand quantised blocks to F32."""


class Cast(Struct, frozen=True, tag=True):
    """Round each element to another floating-point type."""

    dtype: str


Op = UnpermuteHeads | Dequantise | Cast

Progress = Callable[[int, int], None]
"""Called while a plan is carried out, with the bytes done and the bytes in all."""


class TensorPlan(Struct, frozen=True):
    """One output tensor and how it is made."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sources: tuple[TensorSlice, ...]
    """Their rows follow one another in the output."""
    ops: tuple[Op, ...] = ()
    """Applied in this order to blocks of rows; a reordering of rows comes first."""

    @property
    def nbytes(self) -> int:
        """Bytes of the output."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


class SideFile(Struct, frozen=True):
    """A small file that goes beside the weights: `config.json`, `tokenizer.json`, ..."""

    name: str
    content: bytes


class Plan(Struct, frozen=True):
    """A whole conversion to a Hugging Face folder."""

    source: str
    """The path that was given."""
    kind: str
    """What was found there: `gguf`."""
    architecture: str
    tensors: tuple[TensorPlan, ...]
    files: tuple[SideFile, ...]
    warnings: tuple[str, ...]
    """What the source lacks and cannot be made, one sentence each."""

    @property
    def nbytes(self) -> int:
        """Bytes of all output tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def num_parameters(self) -> int:
        """Elements of all output tensors."""
        return sum(prod(tensor.shape) for tensor in self.tensors)
