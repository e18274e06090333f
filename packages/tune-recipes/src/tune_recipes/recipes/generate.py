"""Ask a model something: its answer is streamed to standard output.

tune run generate model=runs/RUN/final prompt="What is the capital of France?"
python generate.py model=models/smollm2 prompt='["one question", "another"]' temperature=0.7
"""

import sys
import time
from typing import Annotated, Literal

from msgspec import Meta

from tune_recipes.catalog import local_path
from tune_recipes.prompting import encode_prompt, load_model_and_tokenizer
from tune_recipes.runner import start
from tune_recipes.sampling import generate
from tune_recipes.schema import (
    AdapterFolder,
    ModelFolder,
    NonNegativeFloat,
    NonNegativeInt,
    Options,
    PositiveInt,
    Seed,
)
from tune_recipes.tokenizer import StreamDecoder


class Config(Options, frozen=True, kw_only=True):
    """The options of this recipe."""

    model: ModelFolder
    """Folder of a Hugging Face checkpoint, or of a PEFT adapter, whose base is then loaded too."""
    adapter: AdapterFolder | None = None
    """Folder of a PEFT adapter to put on the model."""
    prompt: str | tuple[str, ...]
    """What to ask; several as a list: `prompt=["one", "two"]`."""
    prompt_format: Literal["chat", "raw", "alpaca"] = "chat"
    """How the prompt is put: in the model's chat template, as it stands, or as an Alpaca instruction."""
    max_new_tokens: PositiveInt = 256
    """Longest answer, in tokens."""
    temperature: NonNegativeFloat = 0.0
    """How freely tokens are drawn; 0 always takes the likeliest."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Draw from the likeliest tokens that have this probability together."""
    top_k: NonNegativeInt = 0
    """Draw from this many of the likeliest tokens; 0 from all."""
    ignore_eos: bool = False
    """Go on to max_new_tokens, also after the model has ended its answer."""
    seed: Seed = 42
    """Decides what is drawn."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Of weights and arithmetic; auto is bf16 where the hardware is fast at it, else fp32."""


def main(cfg: Config) -> None:
    """Load the model, encode the prompts, and print the answers as they come."""
    prompts = (cfg.prompt,) if isinstance(cfg.prompt, str) else cfg.prompt
    adapter = local_path(cfg.adapter) if cfg.adapter else None
    model, tokenizer = load_model_and_tokenizer(local_path(cfg.model), adapter, cfg.dtype)
    start_time = time.perf_counter()
    steps = generate(
        model,
        [encode_prompt(tokenizer, prompt, cfg.prompt_format) for prompt in prompts],
        max_new_tokens=cfg.max_new_tokens,
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        top_k=cfg.top_k,
        eos_ids=tokenizer.eos_ids,
        ignore_eos=cfg.ignore_eos,
        seed=cfg.seed,
    )
    decoders = [StreamDecoder(tokenizer) for _ in prompts]
    answers = [""] * len(prompts)
    num_tokens = 0
    for step in steps:
        for row, token in enumerate(step):
            if token is None:
                continue
            num_tokens += 1
            text = decoders[row].feed(token)
            answers[row] += text
            if row == 0:  # the first answer is printed as it comes, the others when they are whole
                print(text, end="", flush=True)
    for row, decoder in enumerate(decoders):
        rest = decoder.finish()
        print(rest if row == 0 else f"\n{answers[row]}{rest}")
    seconds = time.perf_counter() - start_time
    print(f"{num_tokens} tokens in {seconds:.2f} s: {num_tokens / seconds:.1f} tokens/s", file=sys.stderr)


if __name__ == "__main__":
    start(main, Config)
