"""The part of a model card that says how to use the model, in commands and code that run as they stand."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tune_hub.markup import code_block

if TYPE_CHECKING:
    from tune_hub.card import CardFacts

_QUESTION, _BEGINNING = "Why is the sky blue?", "Once upon a time"
# What vLLM takes for --max-lora-rank; 16 is its default.
_VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)


def use_section(facts: "CardFacts") -> Iterator[str]:
    """Yield the parts of the section on how to use a model: transformers or PEFT, vLLM, llama.cpp, tune."""
    if not facts.writes_text:
        return
    yield "## Use it"
    if facts.gguf_file:
        yield "With llama.cpp:"
        yield code_block("sh", _llama_cpp(facts, facts.gguf_file))
    else:
        yield f"With {'peft' if facts.form == 'adapter' else 'transformers'}:"
        yield code_block("python", _python(facts))
        if server := _vllm(facts):
            yield "With vLLM, as a server:"
            yield code_block("sh", server)
    yield "With tune:"
    yield code_block("sh", "\n".join(_tune(facts)))


def _name(facts: "CardFacts") -> str:
    return facts.repository or facts.name


def _base(facts: "CardFacts") -> str:
    return facts.base or "BASE_MODEL"


def _prompt(facts: "CardFacts") -> str:
    return facts.prompt or (_BEGINNING if facts.prompt_format in ("raw", None) else _QUESTION)


def _python(facts: "CardFacts") -> str:
    """Return a program that asks the model something; JSON's texts are Python's too."""
    name = json.dumps(_name(facts), ensure_ascii=False)
    if facts.form == "adapter":
        lines = [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"base = {json.dumps(_base(facts), ensure_ascii=False)}",
            "tokenizer = AutoTokenizer.from_pretrained(base)",
            f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), {name})",
        ]
    else:
        lines = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({name})",
            f"model = AutoModelForCausalLM.from_pretrained({name})",
        ]
    prompt = json.dumps(facts.prompt_text or _prompt(facts), ensure_ascii=False)
    if facts.prompt_format == "chat":
        lines += [
            "",
            f'messages = [{{"role": "user", "content": {prompt}}}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ")",
        ]
    else:
        lines += ["", f'inputs = tokenizer({prompt}, return_tensors="pt")']
    return "\n".join(
        [
            *lines,
            "outputs = model.generate(**inputs, max_new_tokens=256)",
            'print(tokenizer.decode(outputs[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
    )


def _llama_cpp(facts: "CardFacts", file: str) -> str:
    of = ["--hf-repo", facts.repository, "--hf-file", file] if facts.repository else ["-m", file]
    return shlex.join(["llama-cli", *of, "-p", _prompt(facts)])


def _vllm(facts: "CardFacts") -> str | None:
    if facts.form != "adapter":
        return shlex.join(["vllm", "serve", _name(facts)])
    if facts.method != "lora" or (facts.rank or 0) > _VLLM_RANKS[-1]:  # it serves no other adapters
        return None
    short = _name(facts).rpartition("/")[2]
    words = ["vllm", "serve", _base(facts), "--enable-lora", "--lora-modules", f"{short}={_name(facts)}"]
    if (facts.rank or 0) > _VLLM_RANKS[0]:
        words += ["--max-lora-rank", str(next(rank for rank in _VLLM_RANKS if rank >= (facts.rank or 0)))]
    return shlex.join(words)


def _tune(facts: "CardFacts") -> Iterator[str]:
    """Yield the commands that fetch the model, and its base, and ask it something."""
    model = _name(facts)
    if facts.repository:
        # All parts of a model that is split.
        parts = re.sub(r"-\d+(-of-\d+\.gguf)$", r"-*\1", facts.gguf_file or "")
        only = ["--include", parts] if parts else []
        yield shlex.join(["tune", "download", facts.repository, *only])
        model = f"models/{facts.repository.rpartition('/')[2]}{'-hf' if facts.is_converted else ''}"
    words = ["tune", "run", "generate"]
    if facts.form == "adapter":
        base = _base(facts)
        if facts.base_model:
            yield shlex.join(["tune", "download", facts.base_model])
            base = f"models/{facts.base_model.rpartition('/')[2]}"
        words += [f"model={base}", f"adapter={model}"]
    else:
        words.append(f"model={model}")
    if facts.prompt_format != "chat":
        words.append(f"prompt_format={facts.prompt_format or 'raw'}")
    prompt = _prompt(facts)
    is_safe = re.fullmatch(r"[\w ,.?'-]+", prompt)
    yield f"{shlex.join(words)} " + (f'prompt="{prompt}"' if is_safe else shlex.quote(f"prompt={prompt}"))
