"""The model card: a README.md that says what a model is, how it was trained, and how to use it.

Source: "Model Cards" and "Model card metadata" in the documentation of the Hugging Face Hub.
"""

import math
import re
import shlex
from collections.abc import Iterator
from typing import Literal

import msgspec

from tune_hub.card_use import use_section
from tune_hub.markup import code, code_block, plain, table, yaml_header

CARD = "README.md"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_METHODS = {"lora": "LoRA", "dora": "DoRA"}


class CardFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model. What is None or empty is left out of the card."""

    name: str
    """What it is called: the heading of the card."""
    method: str | None
    """`full`, `scratch`, `lora`, `dora`, or the name of another recipe; None where nobody knows."""
    form: Literal["model", "adapter", "merged"] = "model"
    """A whole model, a PEFT adapter, or a model that an adapter was merged into."""
    by_tune: bool = True
    """Whether tune trained it."""
    repository: str | None = None
    """Where it is published, as `organisation/name`."""
    base_model: str | None = None
    """Repository of the model that was trained."""
    base_commit: str | None = None
    """Its commit."""
    base_folder: str | None = None
    """Where the command expects the base, from the folder that it is typed in."""
    base_name: str | None = None
    """What the base is called where no repository of it is known."""
    license: str | None = None
    """The base's, as the Hub spells it: `apache-2.0`, `llama3.2`, `other`."""
    license_name: str | None = None
    """With `other`: which."""
    license_link: str | None = None
    """With `other`: its text, an address or a file of the base's repository."""
    language: tuple[str, ...] = ()
    """ISO 639 codes."""
    datasets: tuple[str, ...] = ()
    """Repositories of the data, if it came from the Hub."""
    pipeline_tag: str | None = "text-generation"
    """The task."""
    tags: tuple[str, ...] = ()
    """More tags than those that follow from the rest."""
    rank: int | None = None
    """Of the adapter."""
    alpha: float | None = None
    """Of the adapter."""
    data_name: str | None = None
    """Name of the file of records."""
    data_sha256: str | None = None
    """Fingerprint of the records."""
    num_records: int | None = None
    """Examples in the data."""
    settings: dict[str, str] = {}
    """Options that differ from the recipe's defaults, by dotted name."""
    steps: int | None = None
    """Optimizer steps."""
    tokens: int | None = None
    """Tokens that went through the model, padding included."""
    target_tokens: int | None = None
    """Tokens that it learned to predict."""
    hardware: str | None = None
    """What it was trained on."""
    world_size: int | None = None
    """Number of processes."""
    duration_s: float | None = None
    """How long it took."""
    final_loss: float | None = None
    """Loss of the last step."""
    validation_loss: float | None = None
    """Loss on data that it was not trained on."""
    versions: dict[str, str] = {}
    """Of Python and of the packages that decide the result."""
    git_commit: str | None = None
    """Commit of the folder that it was started in."""
    command: str | None = None
    """What reproduces it, as a shell takes it."""
    prompt_format: Literal["chat", "alpaca", "raw"] | None = None
    """How a prompt is put to the model."""
    prompt: str | None = None
    """An example of one."""
    prompt_text: str | None = None
    """The text that the model gets for it, where that is another and no chat template makes it."""
    writes_text: bool = True
    """Whether it is a model that goes on with a text, which is how the card says to use it."""
    gguf_file: str | None = None
    """A file of it, if it is published for llama.cpp."""
    is_converted: bool = False
    """Whether `tune download` puts what can be run into a folder of its own, `-hf` behind its name."""

    @property
    def base(self) -> str | None:
        """What the base is called."""
        return self.base_model or self.base_name


def model_card(facts: CardFacts) -> str:
    """Return the text of README.md for a model.

    Args:
        facts: What is known of it.

    Returns:
        A block of YAML that the Hub takes, and Markdown.
    """
    sections = [
        _header(facts) + f"\n# {plain(facts.name)}",
        _what_it_is(facts),
        *_training(facts),
        *use_section(facts),
        *_reproduction(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _header(facts: CardFacts) -> str:
    base = facts.base_model if facts.base_model and _HUB_ID.fullmatch(facts.base_model) else None
    # The Hub's `merge` is for one model made of several; a merged adapter leaves a fine-tuned model.
    relation = "adapter" if facts.form == "adapter" else "finetune" if facts.method else None
    tags = [*(["tune"] if facts.by_tune else []), *([facts.method] if facts.method in _METHODS else [])]
    return yaml_header(
        {
            "base_model": base,
            "base_model_relation": relation if base else None,
            "library_name": _library(facts),
            **_license(facts),
            "datasets": [name for name in facts.datasets if _HUB_ID.fullmatch(name)],
            "language": facts.language,
            "pipeline_tag": facts.pipeline_tag,
            "tags": list(dict.fromkeys([*tags, *facts.tags])),
        }
    )


def _library(facts: CardFacts) -> str:
    if facts.gguf_file:
        return "gguf"
    return "peft" if facts.form == "adapter" else "transformers"


def _license(facts: CardFacts) -> dict[str, str | None]:
    """Return what the header says of the licence; a name that the Hub cannot know is an `other`."""
    if not facts.license:
        return {}
    if facts.license != "other" and _LICENSE_ID.fullmatch(facts.license):
        return {"license": facts.license}
    name = facts.license_name or (facts.license if facts.license != "other" else "")
    named = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
    return {"license": "other", "license_name": named or None, "license_link": _license_link(facts)}


def _license_link(facts: CardFacts) -> str | None:
    """Return where the licence stands; a file's name in the base's card is one of the base's repository."""
    link = facts.license_link
    if not link or re.match(r"https?://", link):
        return link
    if not facts.base_model:
        return None
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{facts.base_model}/blob/{facts.base_commit or 'main'}/{link}"


def _what_it_is(facts: CardFacts) -> str:
    base = code(facts.base) if facts.base else None
    data = code(facts.datasets[0] if facts.datasets else facts.data_name or "")
    on = f" on {data}" if facts.datasets or facts.data_name else ""
    with_method = f" with {_method(facts)}" if facts.method not in (None, "full", "scratch") else ""
    if facts.form == "adapter":
        kind = _METHODS.get(facts.method or "", "PEFT")
        text = f"A {kind} adapter{f' for {base}' if base else ''}{f', trained{on}' if on else ''}."
    elif facts.method == "scratch":
        text = f"A language model, trained from scratch{on}."
    elif facts.method is None:
        text = f"A language model{f', made from {base}' if base else ''}."
    else:
        text = f"{base or 'A language model'}, fine-tuned{with_method}{on}."
    if facts.form == "merged":
        text += " The adapter is merged into the weights."
    return f"{text} Trained with `tune`." if facts.by_tune else text


def _method(facts: CardFacts) -> str:
    """Return how it was trained: `LoRA (rank 16, alpha 32)`."""
    named = {"full": "every weight", "scratch": "from scratch, every weight", **_METHODS}
    name = named.get(facts.method or "") or code(facts.method or "")
    sizes = [
        *([f"rank {facts.rank}"] if facts.rank is not None else []),
        *([f"alpha {facts.alpha:g}"] if facts.alpha is not None else []),
    ]
    return f"{name} ({', '.join(sizes)})" if sizes else name


def _training(facts: CardFacts) -> Iterator[str]:
    rows = list(_training_rows(facts))
    if rows:
        yield f"## Training\n\n{table(('', ''), rows)}"
    if facts.settings:
        settings = [(code(name), code(value)) for name, value in facts.settings.items()]
        yield "What was set otherwise than by default:"
        yield table(("Option", "Value"), settings)


def _training_rows(facts: CardFacts) -> Iterator[tuple[str, str]]:
    if facts.method:
        yield "Method", _method(facts)
    if facts.base:
        commit = f" at {code(facts.base_commit[:12])}" if facts.base_commit else ""
        yield "Base model", code(facts.base) + commit
    if data := ", ".join(_data(facts)):
        yield "Data", data
    if facts.steps is not None:
        yield "Steps", f"{facts.steps:,}"
    if facts.tokens is not None:
        learned = f" ({facts.target_tokens:,} of them in the loss)" if facts.target_tokens is not None else ""
        yield "Tokens seen", f"{facts.tokens:,}{learned}"
    if facts.final_loss is not None and math.isfinite(facts.final_loss):
        yield "Final loss", f"{facts.final_loss:.4f}"
    if facts.validation_loss is not None and math.isfinite(facts.validation_loss):
        yield "Validation loss", f"{facts.validation_loss:.4f}"
    if facts.hardware:
        several = f", {facts.world_size} processes" if (facts.world_size or 1) > 1 else ""
        yield "Hardware", plain(facts.hardware) + several
    if facts.duration_s is not None:
        yield "Duration", _duration(facts.duration_s)


def _data(facts: CardFacts) -> Iterator[str]:
    if facts.datasets or facts.data_name:
        yield " ".join(code(name) for name in (*facts.datasets, facts.data_name) if name)
    if facts.num_records is not None:
        yield f"{facts.num_records:,} examples"
    if facts.data_sha256:
        yield f"sha256 {code(facts.data_sha256)}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def _reproduction(facts: CardFacts) -> Iterator[str]:
    if facts.command:
        of_base = ["tune", "download", facts.base_model] if facts.base_model else []
        if of_base and facts.base_commit:
            of_base += ["--revision", facts.base_commit]
        if of_base and facts.base_folder:
            of_base += ["--output-dir", facts.base_folder]
        commands = [*([shlex.join(of_base)] if of_base else []), facts.command]
        block = code_block("sh", "\n".join(commands))
        yield f"## Reproduce it\n\n{block}"
    parts = [f"{plain(name)} {plain(version)}" for name, version in facts.versions.items()]
    if facts.git_commit:
        parts.append(f"started at commit {code(facts.git_commit)}")
    if parts:
        yield f"With {', '.join(parts)}."
