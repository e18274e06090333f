"""From a question to token ids, and the model that answers it."""

from pathlib import Path
from typing import Literal

import torch

from tune_recipes.chat import load_chat_template
from tune_recipes.data.formats import alpaca_prompt
from tune_recipes.errors import UserError
from tune_recipes.lora import load_adapter
from tune_recipes.models.adapter_config import CONFIG_FILE, base_of_adapter
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.load import load_model
from tune_recipes.tokenizer import Tokenizer
from tune_recipes.train.precision import resolve_dtype


def encode_prompt(
    tokenizer: Tokenizer, prompt: str, prompt_format: Literal["chat", "raw", "alpaca"]
) -> list[int]:
    """Return the token ids of a prompt as the model saw such prompts in training.

    Raises:
        UserError: The checkpoint has no chat template, or the template refuses the prompt.
    """
    if prompt_format == "chat":
        message = {"role": "user", "content": prompt}
        text = load_chat_template(tokenizer).render([message], add_generation_prompt=True)
        return tokenizer.encode(text, add_special_tokens=False)  # the template writes them itself
    return tokenizer.encode(alpaca_prompt(prompt) if prompt_format == "alpaca" else prompt)


def load_model_and_tokenizer(
    folder: Path, adapter: Path | None, dtype: Literal["auto", "fp32", "bf16"]
) -> tuple[Decoder, Tokenizer]:
    """Load a model for asking; a folder that holds only an adapter brings the base model that it names.

    Raises:
        UserError: Something is missing, or the adapter does not fit the model.
    """
    adapters = [adapter] if adapter else []
    if (folder / CONFIG_FILE).is_file():
        adapters.insert(0, folder)
        folder = base_of_adapter(folder)
    if len(adapters) > 1:
        raise UserError(
            f"adapter: {adapters[0]} is an adapter already; give its base model as model=, or leave one out"
        )
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model = load_model(folder, dtype=resolve_dtype(dtype, device), device=device)
    for path in adapters:
        load_adapter(model, path)
    return model, Tokenizer(folder)
