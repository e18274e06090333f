"""Choose tokens, and go on choosing them: generation.

Shapes: B prompts, S tokens of the longest prompt, V vocab_size.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from tune_recipes.errors import UserError
from tune_recipes.models.cache import KVCache
from tune_recipes.models.decoder import Decoder


def sample(
    logits_BV: Tensor,
    *,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose one token per row.

    Args:
        logits_BV: (B, V), any floating type.
        temperature: Divides the logits; 0 takes the most likely token.
        top_p: Draw only from the fewest likeliest tokens whose probabilities reach this together; 1: all.
        top_k: Draw only from this many likeliest tokens, before `top_p` is looked at; 0: all.
        generator: Source of the randomness, on the device of the logits.

    Returns:
        Token ids, (B,) int64.

    Source:
        Holtzman et al., The Curious Case of Neural Text Degeneration, section 3.1 (top_p).
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    # Relative to the largest, and by no less than the smallest normal number: however small the temperature,
    # the likeliest token stays finite.
    logits_BV = logits_BV.float()
    logits_BV = logits_BV - logits_BV.amax(-1, keepdim=True)
    logits_BV = logits_BV / max(temperature, torch.finfo(logits_BV.dtype).tiny)
    if 0 < top_k < logits_BV.shape[-1]:
        kth_B1 = logits_BV.topk(top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < kth_B1, -torch.inf)
    if top_p < 1:
        logits_BV = _keep_top_p(logits_BV, top_p)
    return torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)[:, 0]


def _keep_top_p(logits_BV: Tensor, top_p: float) -> Tensor:
    """Set the logits of the unlikely tail to -inf; the likeliest token always stays."""
    sorted_BV, order_BV = logits_BV.sort(descending=True)
    probs_BV = sorted_BV.softmax(-1)
    before_BV = probs_BV.cumsum(-1) - probs_BV  # what the likelier tokens hold together
    tail_BV = before_BV >= top_p
    tail_BV[:, 0] = False
    return logits_BV.masked_fill(tail_BV.scatter(-1, order_BV, tail_BV), -torch.inf)


def generate(
    model: Decoder,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    eos_ids: Collection[int] = (),
    ignore_eos: bool = False,
    seed: int = 0,
) -> Iterator[list[int | None]]:
    """Continue prompts, all of them at once, one token each per step.

    The batch is padded on the left and the padding masked, so that a prompt's greedy continuation does not
    depend on the others, up to rounding. The model is in evaluation mode meanwhile.

    Args:
        model: The model.
        prompt_ids: Token ids of each prompt.
        max_new_tokens: Longest continuation.
        temperature: See `sample`.
        top_p: See `sample`.
        top_k: See `sample`.
        eos_ids: Tokens that end a continuation; the one that does is part of it.
        ignore_eos: Go on to `max_new_tokens` all the same.
        seed: What tokens are drawn from.

    Yields:
        After each step the new token of each prompt, None for those that have ended.

    Raises:
        UserError: A prompt is empty, too long for the model's context, or has tokens that the model lacks.
    """
    _check_prompts(model, prompt_ids, max_new_tokens)
    weight = model.model.embed_tokens.weight
    device = weight.device
    input_ids_BS, real_BS = _pad_left(prompt_ids, device)
    cache = KVCache(
        model.config,
        batch_size=len(prompt_ids),
        max_len=input_ids_BS.shape[1] + max_new_tokens,
        dtype=weight.dtype,
        device=device,
    )
    generator = torch.Generator(device).manual_seed(seed)
    ended = [False] * len(prompt_ids)
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            logits_BV = _last_logits(model, input_ids_BS, real_BS, cache)
            ids_B = sample(logits_BV, temperature=temperature, top_p=top_p, top_k=top_k, generator=generator)
            new = ids_B.tolist()
            yield [None if end else token for token, end in zip(new, ended, strict=True)]
            if not ignore_eos:
                ended = [end or token in eos_ids for token, end in zip(new, ended, strict=True)]
            if all(ended):
                return
            # Rows that have ended go on unseen: the batch keeps its shape, and the others their numbers.
            input_ids_BS, real_BS = ids_B[:, None], None
    finally:
        model.train(was_training)


@torch.no_grad()
def _last_logits(model: Decoder, input_ids_BS: Tensor, real_BS: Tensor | None, cache: KVCache) -> Tensor:
    """Feed the new tokens and return the logits after the last one, (B, V)."""
    keep_BS = torch.zeros_like(input_ids_BS, dtype=torch.bool)
    keep_BS[:, -1] = True
    return model(input_ids_BS, keep_BS=keep_BS, attention_mask_BS=real_BS, cache=cache)


def _pad_left(prompt_ids: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Align the ends of the prompts; without padding there is no mask, and attention takes its fast path."""
    longest = max(len(prompt) for prompt in prompt_ids)
    padding = [longest - len(prompt) for prompt in prompt_ids]
    input_ids_BS = torch.tensor([[0] * pad + list(ids) for pad, ids in zip(padding, prompt_ids, strict=True)])
    if not any(padding):
        return input_ids_BS.to(device), None
    real_BS = torch.arange(longest) >= torch.tensor(padding)[:, None]
    return input_ids_BS.to(device), real_BS.to(device)


def _check_prompts(model: Decoder, prompt_ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse what would end in a traceback, or in nonsense, deep inside the model."""
    room, vocab_size = model.config.max_position_embeddings, model.config.vocab_size
    if not prompt_ids:
        raise UserError("there is no prompt to continue")
    for number, prompt in enumerate(prompt_ids, start=1):
        if not prompt:
            raise UserError(f"prompt {number} is empty: it has no tokens to continue from")
        if len(prompt) + max_new_tokens > room:
            raise UserError(
                f"prompt {number} has {len(prompt)} tokens and max_new_tokens is {max_new_tokens}, but the "
                f"model's context is {room} tokens: shorten the prompt, or ask for fewer new tokens"
            )
        if max(prompt) >= vocab_size:
            raise UserError(
                f"prompt {number} has token {max(prompt)}, but the model's vocabulary has {vocab_size} "
                "tokens: is the tokenizer that of this model?"
            )
