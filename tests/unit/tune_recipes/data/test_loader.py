import subprocess
import sys

import pytest
import torch

from tune_recipes.data.loader import build_loader
from tune_recipes.errors import UserError
from tune_recipes.losses import IGNORE_INDEX
from tune_recipes.tokenizer import Tokenizer

NUM_RECORDS = 23
FIRST_OF_SEED_0 = [9, 14, 21, 10, 11, 20]


@pytest.fixture
def load(data_options, demo):
    """Build a loader over records of different lengths; `load(batch_size=4, rank=1, world_size=2)`."""
    tokenizer = Tokenizer(demo)
    rows = [{"prompt": "x" * (i % 5), "completion": f" {i}"} for i in range(NUM_RECORDS)]

    def build(*, batch_size=4, step_size=None, seed=7, rank=0, world_size=1, **options):
        data = data_options(rows, **options)
        return build_loader(
            data,
            tokenizer,
            batch_size=batch_size,
            step_size=step_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    return build


def lines(batch):
    return [int(where.rsplit(":", 1)[1]) for where in batch.records]


def take(loader, num_steps):
    return [batch for _ in range(num_steps) for batch in next(loader)]


def take_one(loader):
    (batch,) = next(loader)
    return batch


def equal(batch, other):
    return batch.records == other.records and all(
        torch.equal(getattr(batch, name), getattr(other, name)) for name in ("input_ids", "targets")
    )


def test_each_epoch_has_every_record_once_in_an_order_of_its_own(load):
    loader = load()
    epochs = [[line for batch in take(loader, len(loader)) for line in lines(batch)] for _ in range(3)]
    assert loader.epoch == 3
    assert len(loader) == 6
    for epoch in epochs:
        assert sorted(epoch) == list(range(1, NUM_RECORDS + 1))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_is_decided_by_the_seed(load):
    first, same, other = ([lines(batch) for batch in take(load(seed=seed), 9)] for seed in (1, 1, 2))
    assert first == same != other


def test_order_stays_the_same_in_later_versions(load):
    # A checkpoint made today must go on with the same records after an update: never change these numbers.
    assert lines(take_one(load(batch_size=NUM_RECORDS, seed=0)))[:6] == FIRST_OF_SEED_0


def test_without_shuffle_the_file_decides_the_order(load):
    loader = load(shuffle=False)
    for _ in range(2):
        assert [line for b in take(loader, 6) for line in lines(b)] == list(range(1, NUM_RECORDS + 1))


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_together_see_what_one_sees(load, world_size):
    alone = load(batch_size=8)
    together = [
        load(batch_size=8 // world_size, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for _ in range(2 * len(alone)):
        expected = take_one(alone)
        parts = [take_one(loader) for loader in together]
        assert [line for part in parts for line in lines(part)] == lines(expected)
        assert sum(part.num_target_tokens for part in parts) == expected.num_target_tokens
    assert {loader.epoch for loader in together} == {alone.epoch} == {2}
    assert {len(loader) for loader in together} == {len(alone)}


def test_full_batches_are_of_batch_size_and_the_last_one_is_shared_equally(load):
    sizes = [
        [len(lines(b)) for b in take(load(batch_size=3, rank=rank, world_size=3), 3)] for rank in range(3)
    ]
    assert sizes == [[3, 3, 1], [3, 3, 2], [3, 3, 2]]  # 23 = 9 + 9 + 5


def test_process_without_a_record_left_gets_padding_without_targets(load, demo):
    batches = [take(load(batch_size=2, rank=rank, world_size=11), 2)[1] for rank in range(11)]
    assert sorted(len(batch.records) for batch in batches) == [0] * 10 + [1]  # 23 = 22 + 1
    empty = next(batch for batch in batches if not batch.records)
    assert empty.num_target_tokens == 0
    assert empty.input_ids.tolist() == [[Tokenizer(demo).pad_id]]
    assert empty.targets.tolist() == [[IGNORE_INDEX]]


@pytest.mark.parametrize("num_before", [0, 2, 6, 9])
def test_resumed_loader_goes_on_as_if_unbroken(load, num_before):
    unbroken = load()
    take(unbroken, num_before)
    resumed = load(seed=99)
    take(resumed, 4)  # whatever it did before counts nothing
    resumed.load_state_dict(unbroken.state_dict())
    for _ in range(14):
        assert equal(take_one(resumed), take_one(unbroken))
        assert resumed.epoch == unbroken.epoch


def test_another_number_of_processes_goes_on_with_the_records_not_yet_seen(load):
    alone = load(batch_size=4)
    take(alone, 3)
    state = alone.state_dict()
    together = [load(batch_size=2, rank=rank, world_size=4) for rank in range(4)]
    for loader in together:
        loader.load_state_dict(state)
    seen = [line for _ in range(2) for loader in together for line in lines(take_one(loader))]
    assert seen == [line for batch in take(alone, 3) for line in lines(batch)]
    assert together[0].epoch == alone.epoch == 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_a_step_has_the_same_records_for_any_number_of_processes_and_size_of_micro_batch(
    load, world_size, batch_size
):
    sizes = {"batch_size": batch_size, "step_size": 6, "world_size": world_size}
    loaders = [load(rank=rank, **sizes) for rank in range(world_size)]
    whole = load(batch_size=6)
    for _ in range(2 * len(whole)):  # the last step of an epoch has 5 records
        parts = [next(loader) for loader in loaders]
        assert len({len(batches) for batches in parts}) == 1
        assert all(len(batch.records) <= batch_size for batches in parts for batch in batches)
        seen = [line for batches in parts for batch in batches for line in lines(batch)]
        assert seen == lines(take_one(whole))


def test_state_is_plain_and_tells_changed_data(load, data_options, demo):
    state = load().state_dict()
    assert all(type(value) in (int, str) for value in state.values())
    changed = build_loader(data_options([{"text": "ab"}]), Tokenizer(demo), batch_size=1, seed=7)
    assert changed.fingerprint.num_records == 1
    with pytest.raises(UserError, match="data file has changed since the checkpoint"):
        changed.load_state_dict(state)


def test_batch_is_padded_on_the_right_and_targets_are_the_ids_that_follow(data_options, demo):
    tokenizer = Tokenizer(demo)
    rows = [{"prompt": "Capital?", "completion": "Paris"}, {"text": "Name the capital of France."}]
    batch = take_one(build_loader(data_options(rows, shuffle=False), tokenizer, batch_size=2, seed=0))
    assert batch.input_ids.dtype == batch.targets.dtype == torch.int64
    assert batch.input_ids.is_contiguous()
    num_targets = 0
    for row, (prompt, text) in enumerate(
        (("Capital?", "Capital?Paris"), ("", "Name the capital of France."))
    ):
        ids = [*tokenizer.encode(text), tokenizer.eos_id]
        labels = [IGNORE_INDEX if i < len(tokenizer.encode(prompt)) else token for i, token in enumerate(ids)]
        padding = batch.input_ids.shape[1] - (len(ids) - 1)
        assert batch.input_ids[row].tolist() == ids[:-1] + [tokenizer.pad_id] * padding
        assert batch.targets[row].tolist() == labels[1:] + [IGNORE_INDEX] * padding
        num_targets += sum(label != IGNORE_INDEX for label in labels[1:])
    assert batch.num_target_tokens == num_targets


def test_options_reach_the_examples(data_options, demo):
    tokenizer = Tokenizer(demo)
    row = {"question": "Name the capital of France.", "output": "Paris"}
    options = {"format": "alpaca", "column_map": {"instruction": "question"}, "max_seq_len": 5}
    data = data_options([row], **options, train_on_input=True)
    assert take_one(build_loader(data, tokenizer, batch_size=1, seed=0)).targets.shape == (1, 5)
    with pytest.raises(UserError, match=r"data\.jsonl:1: has nothing to learn in its first 5 tokens"):
        build_loader(data_options([row], **options), tokenizer, batch_size=1, seed=0)


def test_only_the_loader_needs_torch():
    code = (
        "import sys, tune_recipes.tokenizer, tune_recipes.chat, tune_recipes.data.encode\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
