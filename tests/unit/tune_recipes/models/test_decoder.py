"""What the decoder computes, against transformers on the same folder."""

import pytest
import torch

from tune_recipes.models.cache import KVCache
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.load import load_model, load_weights_

TOLERANCE = {"atol": 1e-4, "rtol": 0}


def load(folder) -> Decoder:
    return load_model(folder, dtype=torch.float32).eval()


@torch.no_grad()
def test_logits_equal_transformers(reference, input_ids):
    ours = load(reference.folder)(input_ids)

    torch.testing.assert_close(ours, reference.logits(input_ids), **TOLERANCE)
    assert ours.std() > 1  # weights so small that nothing matters would agree, too


@torch.no_grad()
def test_kept_positions_get_the_logits_that_they_have_among_all(references, input_ids):
    model = load(references["tied"].folder)
    keep = torch.rand(input_ids.shape, generator=torch.Generator().manual_seed(2)) < 0.3

    torch.testing.assert_close(model(input_ids, keep_BS=keep), model(input_ids)[keep], **TOLERANCE)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padded_batch_equals_transformers_on_each_text_alone(reference, input_ids, side):
    lengths = [40, 23, 5]
    texts = [row[:length] for row, length in zip(input_ids, lengths, strict=True)]
    padded, mask = torch.full((3, 40), 3), torch.zeros(3, 40, dtype=torch.int64)
    for row, text in enumerate(texts):
        place = slice(40 - len(text), None) if side == "left" else slice(len(text))
        padded[row, place], mask[row, place] = text, 1

    ours = load(reference.folder)(padded, attention_mask_BS=mask)

    assert ours.isfinite().all()
    for row, text in enumerate(texts):
        alone = reference.logits(text[None])[0]
        torch.testing.assert_close(ours[row][mask[row].bool()], alone, **TOLERANCE)


@torch.no_grad()
def test_right_padding_needs_no_mask(references, input_ids):
    model = load(references["tied"].folder)
    padded = input_ids.clone()
    padded[:, 30:] = 3

    torch.testing.assert_close(model(padded)[:, :30], model(input_ids)[:, :30], **TOLERANCE)


@torch.no_grad()
def test_given_positions_equal_transformers(references, input_ids):
    reference = references["llama3"]
    positions = torch.arange(40).repeat(3, 1) * 3 + 1
    positions[:, 20:] -= 60

    ours = load(reference.folder)(input_ids, positions_BS=positions)

    torch.testing.assert_close(ours, reference.logits(input_ids, position_ids=positions), **TOLERANCE)


def test_gradients_equal_transformers(reference, input_ids):
    input_ids = input_ids.clone()
    input_ids[:, ::5] = 7  # the padding token of one of the models, whose embedding gets no gradient
    model = load(reference.folder).train()
    target = torch.randn(3, 40, 61, generator=torch.Generator().manual_seed(3))
    (model(input_ids) * target).mean().backward()
    reference.model.zero_grad()
    (reference.logits(input_ids) * target).mean().backward()

    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    theirs = {name: parameter.grad for name, parameter in reference.model.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("steps", [[40], [1] * 40, [17, 1, 1, 21]], ids=["prefill", "single", "chunks"])
@torch.no_grad()
def test_cache_gives_the_logits_of_one_pass(reference, input_ids, steps):
    model = load(reference.folder)
    cache = KVCache(model.config, batch_size=3, max_len=44, dtype=torch.float32)

    parts = [model(chunk, cache=cache) for chunk in input_ids.split(steps, dim=1)]

    torch.testing.assert_close(torch.cat(parts, dim=1), reference.logits(input_ids), **TOLERANCE)
    assert cache.length == 40


@torch.no_grad()
def test_cache_of_left_padded_batch_continues_each_text_alone(reference, input_ids):
    model = load(reference.folder)
    real = torch.arange(40) >= torch.tensor([[0], [9], [33]])
    cache = KVCache(model.config, batch_size=3, max_len=40, dtype=torch.float32)

    model(input_ids[:, :36], attention_mask_BS=real[:, :36], cache=cache)
    ours = torch.cat([model(input_ids[:, i : i + 1], cache=cache) for i in range(36, 40)], dim=1)

    for row in range(3):
        alone = reference.logits(input_ids[row][real[row]][None])[0, -4:]
        torch.testing.assert_close(ours[row], alone, **TOLERANCE)


def test_full_cache_takes_no_more(references, input_ids):
    model = load(references["tied"].folder)
    cache = KVCache(model.config, batch_size=3, max_len=39, dtype=torch.float32)

    with pytest.raises(AssertionError, match="a cache of 39 tokens has no room for 40"):
        model(input_ids, cache=cache)


@torch.no_grad()
def test_model_from_the_meta_device_is_whole_after_to_empty_and_loading(reference, input_ids):
    with torch.device("meta"):
        model = Decoder(load(reference.folder).config)
    assert len(list(model.parameters())) == len(list(reference.model.parameters()))  # tied from the start
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.fill_(torch.nan)
    assert not list(model.buffers())  # what to_empty would fill with garbage and loading would not mend

    model.tie_weights_()
    load_weights_(model, reference.folder)

    torch.testing.assert_close(model(input_ids), reference.logits(input_ids), **TOLERANCE)


@torch.no_grad()
def test_bfloat16_stays_near_transformers_in_bfloat16(references, input_ids):
    reference = references["llama3"]
    exact = reference.logits(input_ids)
    ours = load_model(reference.folder, dtype=torch.bfloat16)(input_ids)
    theirs = type(reference.model).from_pretrained(reference.folder, dtype=torch.bfloat16)(input_ids).logits

    assert ours.dtype == torch.bfloat16
    assert (ours - exact).abs().mean() < 1.1 * (theirs - exact).abs().mean()
