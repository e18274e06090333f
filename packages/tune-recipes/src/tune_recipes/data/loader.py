"""Batches of token ids, in an order that seed and epoch decide, for one process of N.

Shapes: B sequences of this process's micro-batch, S tokens of its longest sequence.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tune_recipes.catalog import local_path
from tune_recipes.data.encode import Example, encode_records
from tune_recipes.data.formats import build_format
from tune_recipes.data.records import Fingerprint, read_with_fingerprint
from tune_recipes.errors import UserError
from tune_recipes.losses import IGNORE_INDEX
from tune_recipes.schema import Data
from tune_recipes.tokenizer import Tokenizer


@dataclass(frozen=True)
class Batch:
    """Sequences of one micro-batch of one process, padded on the right."""

    input_ids: Tensor
    """(B, S) int64; padding is the tokenizer's `pad_id`."""
    targets: Tensor
    """(B, S) int64; the id that follows each position, `IGNORE_INDEX` where none is learned."""
    num_target_tokens: int
    """Positions with a target; 0 where an epoch's last step has no record left for a process."""
    records: tuple[str, ...]
    """Where each sequence's record stands in the data file."""

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on a device."""
        return replace(self, input_ids=self.input_ids.to(device), targets=self.targets.to(device))


class Loader:
    """An endless stream of steps that remembers where it is.

    A step is the next `step_size` records of the epoch's order, whatever the number of processes: each gets
    an equal part of them, in micro-batches of at most `batch_size`. The last step of an epoch has what is
    left. All processes have the same number of micro-batches; one without a record gets a row of padding
    without targets instead, so that all of them go through the step together.

    Attributes:
        epoch: How often all records have been seen; the next step belongs to this epoch.
        fingerprint: Of the data file.
    """

    def __init__(
        self,
        examples: Sequence["_Stored"],
        fingerprint: Fingerprint,
        *,
        step_size: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        pad_id: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        """Made by `build_loader`."""
        self.epoch = 0
        self.fingerprint = fingerprint
        self.step_size = step_size
        self.batch_size = batch_size
        self._examples = examples
        self._seed = seed
        self._shuffle = shuffle
        self._pad_id = pad_id
        self._rank = rank
        self._world_size = world_size
        self._num_seen = 0  # records of this epoch, over all processes
        self._order = self._epoch_order()

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that a model will be given."""
        return max(len(example.input_ids) for example in self._examples)

    @property
    def most_targets(self) -> int:
        """The most targets that a sequence has."""
        return max(int((example.targets != IGNORE_INDEX).sum()) for example in self._examples)

    @property
    def tokens_per_record(self) -> float:
        """Tokens of a sequence, on average."""
        return sum(len(example.input_ids) for example in self._examples) / len(self._examples)

    @property
    def largest_id(self) -> int:
        """The largest token id in the data."""
        return int(max(max(example.input_ids.max(), example.targets.max()) for example in self._examples))

    def __len__(self) -> int:
        """Steps of an epoch."""
        return -(-len(self._examples) // self.step_size)

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        return self

    def __next__(self) -> tuple[Batch, ...]:
        """Return this process's micro-batches of the next step."""
        together = self._order[self._num_seen : self._num_seen + self.step_size]
        self._num_seen += len(together)
        if self._num_seen == len(self._examples):
            self.epoch += 1
            self._num_seen = 0
            self._order = self._epoch_order()
        longest_part = -(-len(together) // self._world_size)
        num_batches = -(-longest_part // self.batch_size)
        mine = _equal_part(together, self._rank, self._world_size)
        parts = (_equal_part(mine, index, num_batches) for index in range(num_batches))
        return tuple(self._collate([self._examples[i] for i in part]) for part in parts)

    def state_dict(self) -> dict[str, Any]:
        """Say where the stream is; the same in every process, and plain numbers and texts only.

        Returns:
            What `load_state_dict` takes.
        """
        return {
            "epoch": self.epoch,
            "num_seen": self._num_seen,
            "seed": self._seed,
            "sha256": self.fingerprint.sha256,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader of the same data stopped, whatever its number of processes.

        Args:
            state: What `state_dict` returned. Its seed replaces this loader's: the order belongs to the run.

        Raises:
            UserError: The data file is another one.
        """
        if state["sha256"] != self.fingerprint.sha256:
            raise UserError(
                "the data file has changed since the checkpoint was made, so the run cannot go on where it "
                f"stopped (SHA-256 {state['sha256'][:12]}... then, {self.fingerprint.sha256[:12]}... now); "
                "put the old file back, or start a new run from the checkpoint's model"
            )
        self.epoch = state["epoch"]
        self._seed = state["seed"]
        self._num_seen = state["num_seen"]
        self._order = self._epoch_order()

    def _epoch_order(self) -> Sequence[int]:
        if not self._shuffle:
            return range(len(self._examples))
        # Sorted by `random()`, the one method whose numbers Python promises to keep in later versions: a run
        # must be able to go on in the middle of an epoch after an update.
        numbers = random.Random(f"{self._seed}/{self.epoch}")
        keys = [numbers.random() for _ in self._examples]
        return sorted(range(len(keys)), key=keys.__getitem__)

    def _collate(self, examples: Sequence["_Stored"]) -> Batch:
        rows = [example.input_ids for example in examples] or [torch.tensor([self._pad_id])]
        target_rows = [example.targets for example in examples] or [torch.tensor([IGNORE_INDEX])]
        input_ids_BS = pad_sequence(rows, batch_first=True, padding_value=self._pad_id).long()
        targets_BS = pad_sequence(target_rows, batch_first=True, padding_value=IGNORE_INDEX).long()
        num_target_tokens = int((targets_BS != IGNORE_INDEX).sum())
        return Batch(
            input_ids_BS, targets_BS, num_target_tokens, tuple(example.where for example in examples)
        )


def _equal_part(items: Sequence[int], index: int, num_parts: int) -> Sequence[int]:
    return items[index * len(items) // num_parts : (index + 1) * len(items) // num_parts]


@dataclass(frozen=True, slots=True)
class _Stored:
    """An example, shifted: the target at a position is the id that follows. int32, to take little memory."""

    input_ids: Tensor
    targets: Tensor
    where: str


def build_loader(
    data: Data,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    step_size: int | None = None,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    now: datetime | None = None,
) -> Loader:
    """Read and tokenize a data file and make batches of it.

    Args:
        data: The `data` options of a recipe.
        tokenizer: The checkpoint's.
        batch_size: Sequences of a micro-batch of one process, at most.
        step_size: Sequences of a step of all processes; by default a micro-batch of each.
        seed: Decides the order, with the epoch.
        rank: This process.
        world_size: All processes.
        now: What a chat template that prints today's date takes for it: when the run began, so that a run
            that is taken up another day goes on with the same text.

    Returns:
        The loader, at the beginning of epoch 0.

    Raises:
        UserError: The file or a record of it cannot be used.
    """
    records, fingerprint = read_with_fingerprint(local_path(data.path))
    make_sample = build_format(
        data.format, data.column_map, tokenizer, train_on_input=data.train_on_input, now=now
    )
    examples = encode_records(records, make_sample, tokenizer, max_seq_len=data.max_seq_len)
    return Loader(
        [_store(example) for example in examples],
        fingerprint,
        step_size=step_size or batch_size * world_size,
        batch_size=batch_size,
        seed=seed,
        shuffle=data.shuffle,
        pad_id=tokenizer.pad_id,
        rank=rank,
        world_size=world_size,
    )


def _store(example: Example) -> _Stored:
    # By way of numpy, which reads a list three times as fast as torch.
    ids = np.array(example.ids, dtype=np.int32)
    targets = np.where(np.array(example.is_target[1:]), ids[1:], np.int32(IGNORE_INDEX))
    return _Stored(torch.from_numpy(ids[:-1]), torch.from_numpy(targets), example.where)
