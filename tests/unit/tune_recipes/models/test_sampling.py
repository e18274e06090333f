"""Sampling against transformers' logits warpers, generation against `transformers.generate`."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tune_recipes.errors import UserError
from tune_recipes.models.load import load_model
from tune_recipes.sampling import generate, sample


def run(model, prompts, **options):
    """Gather what `generate` yields into one list of tokens per prompt."""
    texts: list[list[int]] = [[] for _ in prompts]
    for step in generate(model, prompts, **options):
        for text, token in zip(texts, step, strict=True):
            text += [] if token is None else [token]
    return texts


def frequencies(logits, num_draws=40_000, **options):
    generator = torch.Generator().manual_seed(0)
    ids = sample(logits.expand(num_draws, -1), generator=generator, **options)
    return torch.bincount(ids, minlength=len(logits)) / num_draws


@pytest.fixture
def logits():
    return torch.randn(30, generator=torch.Generator().manual_seed(4)) * 2


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [
        (1.0, 1.0, 0),
        (0.5, 1.0, 0),
        (1.0, 0.8, 0),
        (1.0, 1.0, 5),
        (1.7, 0.6, 9),
        (1.0, 0.0, 0),
        (1.0, 1.0, 99),
    ],
)
def test_draws_are_distributed_as_transformers_warps(logits, temperature, top_p, top_k):
    warped = TemperatureLogitsWarper(temperature)(None, logits[None])  # type: ignore[arg-type]
    warped = TopKLogitsWarper(top_k)(None, warped) if top_k else warped  # type: ignore[arg-type]
    warped = TopPLogitsWarper(top_p)(None, warped) if top_p < 1 else warped  # type: ignore[arg-type]
    expected = warped.softmax(-1)[0]

    ours = frequencies(logits, temperature=temperature, top_p=top_p, top_k=top_k)

    assert set(ours.nonzero().flatten().tolist()) <= set(expected.nonzero().flatten().tolist())
    torch.testing.assert_close(ours, expected, atol=0.01, rtol=0)
    if top_k or top_p < 1:
        likely = expected > 1e-3
        assert (ours[likely] > 0).all()


def test_zero_temperature_takes_the_likeliest(logits):
    assert frequencies(logits, num_draws=5, temperature=0)[logits.argmax()] == 1


@pytest.mark.parametrize("temperature", [1e-45, 1e-300])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.9, "top_k": 5}])
def test_tiny_temperature_takes_the_likeliest_too(logits, temperature, options):
    drawn = frequencies(logits * 1e4, num_draws=5, temperature=temperature, **options)
    assert drawn[logits.argmax()] == 1


def test_the_same_seed_draws_the_same_tokens(references):
    model = load_model(references["tied"].folder, dtype=torch.float32)
    options = {"max_new_tokens": 20, "temperature": 1.5}
    one, again, other = (run(model, [[9, 10]], seed=seed, **options) for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize("lengths", [[12], [12, 12], [3, 17, 8]])
def test_greedy_generation_equals_transformers_on_each_prompt_alone(reference, input_ids, lengths):
    prompts = [row[:length].tolist() for row, length in zip(input_ids, lengths, strict=False)]
    model = load_model(reference.folder, dtype=torch.float32)
    expected = [
        reference.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=30,
            eos_token_id=[2, 20, 31, 45],
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]

    assert run(model, prompts, max_new_tokens=30, eos_ids=(2, 20, 31, 45)) == expected


def test_a_text_ends_with_its_end_token_unless_that_is_ignored(references):
    model = load_model(references["tied"].folder, dtype=torch.float32)
    prompts = [[9, 10, 11], [12, 13]]
    free = run(model, prompts, max_new_tokens=25)
    end = free[0][4]

    ended = run(model, prompts, max_new_tokens=25, eos_ids=[end])
    assert ended[0] == free[0][: free[0].index(end) + 1]
    assert ended[1] == (free[1][: free[1].index(end) + 1] if end in free[1] else free[1])
    assert run(model, prompts, max_new_tokens=25, eos_ids=[end], ignore_eos=True) == free


def test_the_model_is_evaluated_and_then_trains_on(references):
    model = load_model(references["tied"].folder, dtype=torch.float32).train()
    steps = generate(model, [[9]], max_new_tokens=2)
    next(steps)
    assert not model.training
    assert torch.is_grad_enabled()
    list(steps)
    assert model.training


def test_nothing_is_kept_for_a_backward_pass(references):
    model = load_model(references["tied"].folder, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        run(model, [[9, 10]], max_new_tokens=2)
    assert not kept


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "there is no prompt"),
        ([[3], []], "prompt 2 is empty"),
        ([[3] * 120], "prompt 1 has 120 tokens and max_new_tokens is 9, but the model's context is 128"),
        ([[3, 61]], "prompt 1 has token 61, but the model's vocabulary has 61 tokens"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused(references, prompts, message):
    model = load_model(references["tied"].folder, dtype=torch.float32)
    with pytest.raises(UserError, match=message):
        next(generate(model, prompts, max_new_tokens=9))
