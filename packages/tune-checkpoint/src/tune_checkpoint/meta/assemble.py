"""From the parts of a model to the tensors of a whole one.

Meta splits a model among processes that work side by side: each file has some of the rows or columns of every
matrix, and all of every vector.

Source: `ColumnParallelLinear` and `RowParallelLinear` of fairscale, as models/llama3/model.py of
meta-llama/llama-models uses them; for the embedding `ParallelEmbedding` (columns) before Llama 3, and
`VocabParallelEmbedding` (rows) since.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.meta.decoder import (
    EMBEDDING,
    HEAD,
    KEY,
    QUERY,
    DecoderSizes,
    StatedSizes,
    decoder_tensors,
)
from tune_checkpoint.plan import ReorderHeads, TensorPlan, TensorSlice
from tune_checkpoint.planning import planned
from tune_checkpoint.tied import has_same_values

UP, VALUE = "feed_forward.w1.weight", "attention.wv.weight"


class Parts:
    """The tensors of each part of a model, by Meta's names.

    Args:
        path: what the whole is called in messages.
        parts: each part's file (or folder) and its tensors, in the order of the parts.
        called: from a name in the files to Meta's, if they are others.
    """

    def __init__(
        self,
        path: Path,
        parts: Iterable[tuple[Path, Iterable[TensorSlice]]],
        called: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self._files: list[Path] = []
        self._parts: list[dict[str, TensorSlice]] = []
        names = called or {}
        self._names_there = {meta_name: name for name, meta_name in names.items()}
        for file, tensors in parts:
            self._files.append(file)
            self._parts.append({names.get(tensor.name, tensor.name): tensor for tensor in tensors})

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, name: str) -> bool:
        return any(name in part for part in self._parts)

    def pieces(self, name: str) -> list[TensorSlice]:
        """The tensor of this name in each part.

        Raises:
            CorruptFileError: a part has none, or one of another shape or type.
        """
        for file, part in zip(self._files, self._parts, strict=True):
            if name not in part:
                there = self._names_there.get(name, name)
                raise CorruptFileError(f"{file}: tensor {there!r} is missing")
        pieces = [part[name] for part in self._parts]
        first = pieces[0]
        for piece in pieces[1:]:
            if (piece.shape, piece.dtype) != (first.shape, first.dtype):
                raise CorruptFileError(
                    f"{piece.path}: tensor {piece.name!r} is {piece.dtype} {list(piece.shape)}, but "
                    f"{first.dtype} {list(first.shape)} in {Path(first.path).name}; "
                    "the files are not of one model"
                )
        return pieces

    def matrix(self, name: str) -> list[TensorSlice]:
        """The same of a matrix.

        Raises:
            CorruptFileError: it is none, or empty.
        """
        pieces = self.pieces(name)
        if len(pieces[0].shape) != 2 or 0 in pieces[0].shape:
            raise CorruptFileError(
                f"{pieces[0].path}: tensor {pieces[0].name!r} has shape {list(pieces[0].shape)}; "
                "it is to be a matrix"
            )
        return pieces

    def leftovers(self, used: Iterable[str]) -> list[str]:
        """What the files call those tensors that are not among the used ones."""
        known = set(used)
        return sorted(
            {tensor.name for part in self._parts for name, tensor in part.items() if name not in known}
        )


def is_same(one: TensorSlice, other: TensorSlice) -> bool:
    """Whether two tensors are one under two names."""
    return replace(one, name=other.name) == other


def is_buffer(name: str) -> bool:
    """Whether a tensor is a table of rotary frequencies, which every program computes anew."""
    return name.endswith("rope.freqs")


def decoder_sizes(parts: Parts, stated: StatedSizes, *, needs_head: bool) -> DecoderSizes:
    """The sizes of the whole model: those that are stated, and the others from the shapes of the parts.

    Args:
        parts: the parts, all of them.
        stated: the sizes that the shapes do not tell.
        needs_head: a head that is the embedding must be there too.

    Raises:
        CorruptFileError: a part is missing, or the shapes contradict the stated sizes.
    """
    _check_number(parts, stated.num_attention_heads * stated.head_dim)
    embedding = parts.matrix(EMBEDDING)
    by_columns = len(parts) > 1 and embedding[0].shape[1] != stated.hidden_size
    up = parts.matrix(f"layers.0.{UP}")
    return DecoderSizes(
        vocab_size=embedding[0].shape[0] * (1 if by_columns else len(parts)),
        hidden_size=stated.hidden_size,
        intermediate_size=up[0].shape[0] * len(parts),
        num_hidden_layers=stated.num_hidden_layers,
        num_attention_heads=stated.num_attention_heads,
        num_key_value_heads=stated.num_key_value_heads,
        head_dim=stated.head_dim,
        is_tied=_is_tied(parts, embedding, needs_head),
    )


def plan_decoder(parts: Parts, sizes: DecoderSizes, dtype: str | None) -> tuple[TensorPlan, ...]:
    """A plan for every tensor of the Hugging Face model, in transformers' order.

    Args:
        parts: the parts, heads in the order in which Meta rotates them.
        sizes: of the whole.
        dtype: the type of the output; None keeps each tensor's own.

    Raises:
        CorruptFileError: a tensor is missing or has another shape.
        UnsupportedCheckpointError: there are tensors that this model does not have.
    """
    plans: list[TensorPlan] = []
    used = {HEAD} if sizes.is_tied else set[str]()
    for name, hf_name, letters in decoder_tensors(sizes.num_hidden_layers, sizes.is_tied):
        pieces = parts.pieces(name)
        if name.endswith((KEY, VALUE)):
            pieces = _without_copies(pieces, sizes)
        axis = _axis(pieces, sizes.dims(letters))
        sources = pieces if axis is not None else pieces[:1]
        heads = sizes.rotated_heads(name)
        ops = [] if heads is None else [ReorderHeads(heads, "halves")]
        plans.append(planned(hf_name, sources, dtype, axis=axis or 0, ops=ops))
        used.add(name)
    remaining = [name for name in parts.leftovers(used) if not is_buffer(name)]
    if remaining:
        raise UnsupportedCheckpointError(
            f"{parts.path}: {len(remaining)} tensors are no part of a Llama model "
            f"({', '.join(remaining[:3])}); converting would lose them"
        )
    return tuple(plans)


def _check_number(parts: Parts, whole: int) -> None:
    """Refuse more or fewer parts than hold the rows of all query heads once."""
    query = parts.matrix(f"layers.0.{QUERY}")[0]
    rows = query.shape[0]
    if rows * len(parts) == whole:
        return
    many = "one part" if len(parts) == 1 else f"{len(parts)} parts"
    have = f"{parts.path}: {many} with {rows} rows of {query.name!r}, but all heads together have {whole}"
    if whole % rows:
        raise CorruptFileError(f"{have}; weights and sizes are not of one model")
    raise CorruptFileError(f"{have}, which makes {whole // rows} parts; files are missing or too many")


def _is_tied(parts: Parts, embedding: Sequence[TensorSlice], needs_head: bool) -> bool:
    """Whether the head is absent, or in every part the embedding or a copy of it."""
    if HEAD not in parts and not needs_head:
        return True
    return all(map(has_same_values, parts.pieces(HEAD), embedding))


def _without_copies(pieces: list[TensorSlice], sizes: DecoderSizes) -> list[TensorSlice]:
    """Each key-value head once, where there are more parts than heads and so every part has a copy of one.

    A part computes its query heads alone, so it must have the key-value head that these share.
    """
    count = sizes.num_key_value_heads
    rows = pieces[0].shape[:1]
    if rows == (count * sizes.head_dim,):
        return pieces[:1]
    if rows == (sizes.head_dim,) and not len(pieces) % count:
        return pieces[:: len(pieces) // count]
    return pieces


def _axis(pieces: Sequence[TensorSlice], whole: tuple[int, ...]) -> Literal[0, 1] | None:
    """The dimension along which the pieces make the whole; None of a vector, which every part has whole.

    Raises:
        CorruptFileError: neither.
    """
    shape, count = pieces[0].shape, len(pieces)
    if shape == whole and (count == 1 or len(whole) == 1):
        return None
    if len(shape) == len(whole) == 2:
        if (shape[0] * count, shape[1]) == whole:
            return 0
        if (shape[0], shape[1] * count) == whole:
            return 1
    among = f" in each of {count} parts" if count > 1 else ""
    raise CorruptFileError(
        f"{pieces[0].path}: tensor {pieces[0].name!r} has shape {list(shape)}{among}; "
        f"the sizes of the model make it {list(whole)}"
    )
