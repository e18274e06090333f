"""From a folder to the facts of a model card: what a run noted, or else what the folder's own files say."""

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from tune_hub.card import CardFacts
    from tune_recipes.base_model import BaseModel

ADAPTER_CONFIG, MODEL_CONFIG = "adapter_config.json", "config.json"
Form = Literal["model", "adapter", "merged"]
PromptFormat = Literal["chat", "alpaca", "raw"]

# How `tune run generate` asks a model that was trained on records of a format.
_PROMPT_FORMATS: dict[str, PromptFormat] = {"chat": "chat", "alpaca": "alpaca", "completion": "raw"}
_QUESTION = "Why is the sky blue?"


def card_facts(folder_or_run: Path) -> "CardFacts":
    """Gather what is known of a model.

    Args:
        folder_or_run: A run folder, of which `final` is meant; or `final` or `merged` in one; or any other
            folder of a model or an adapter, of which only its own files tell.

    Returns:
        The facts; nothing in them is private: no way to a folder, no token.

    Raises:
        UserError: The run folder is damaged.
    """
    from tune_recipes.base_model import RESULTS
    from tune_recipes.runs import FINAL, INFO

    folder = folder_or_run.resolve()
    if (folder / INFO).is_file():
        return _facts_of_run(folder, folder / FINAL)
    if folder.name in RESULTS and (folder.parent / INFO).is_file():
        return _facts_of_run(folder.parent, folder)
    return _facts_of_folder(folder)


def _facts_of_run(run: Path, folder: Path) -> "CardFacts":
    from tune_hub.card import CardFacts
    from tune_hub.secrets import redacted
    from tune_recipes.run_facts import run_facts
    from tune_recipes.runs import MERGED

    facts = run_facts(run)
    form: Form = "merged" if folder.name == MERGED else _form(folder)
    prompt_format = _PROMPT_FORMATS.get(facts.data_format or "")
    return CardFacts(
        name=facts.label,
        method=facts.method,
        form=form,
        rank=facts.rank,
        alpha=facts.alpha,
        data_name=facts.data_name,
        datasets=(facts.dataset,) if facts.dataset else (),
        data_sha256=facts.data_sha256,
        num_records=facts.num_records,
        settings={name: _without_secret(name, value) for name, value in facts.settings.items()},
        steps=facts.steps,
        tokens=facts.tokens,
        target_tokens=facts.target_tokens,
        hardware=facts.hardware,
        world_size=facts.world_size,
        duration_s=facts.duration_s,
        final_loss=facts.final_loss,
        validation_loss=facts.validation_loss,
        versions=facts.versions,
        git_commit=facts.git_commit,
        command=redacted(facts.command) if facts.command else None,
        prompt_format=prompt_format,
        **_prompt(prompt_format),
        **_base(facts.base_model),
    )


def _facts_of_folder(folder: Path) -> "CardFacts":
    from tune_hub.card import CardFacts
    from tune_recipes.base_model import read_base_model

    config = _json(folder / (ADAPTER_CONFIG if _form(folder) == "adapter" else MODEL_CONFIG))
    if _form(folder) == "adapter":
        base = config.get("base_model_name_or_path")
        return CardFacts(
            name=folder.name,
            method=_adapter_method(config),
            form="adapter",
            by_tune=False,
            rank=_number(config.get("r"), int),
            alpha=_number(config.get("lora_alpha"), float),
            pipeline_tag="text-generation" if config.get("task_type") == "CAUSAL_LM" else None,
            writes_text=config.get("task_type") in ("CAUSAL_LM", None),
            **_named_base(base if isinstance(base, str) else ""),
        )
    names, weights = str(config.get("architectures") or ""), _weights(folder)
    prompt_format: PromptFormat | None = "chat" if _has_chat_template(folder) else None
    return CardFacts(
        name=folder.name,
        method=None,
        by_tune=False,
        pipeline_tag="text-generation" if "ForCausalLM" in names or "gguf_file" in weights else None,
        writes_text="ForCausalLM" in names or not names,
        prompt_format=prompt_format,
        **_prompt(prompt_format),
        **weights,
        **_base(known if (known := read_base_model(str(folder))).repository else None),
    )


def _weights(folder: Path) -> dict[str, Any]:
    """Return what a model's files of weights are, if no safetensors that everything reads."""
    from tune_cli.commands._converted import needs_conversion
    from tune_hub.weights import has_weights

    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not needs_conversion(names):
        return {}
    weights = [name for name in names if has_weights([name])]
    ggufs = [name for name in weights if name.endswith(".gguf")]
    return {"is_converted": True} | ({"gguf_file": ggufs[0]} if ggufs == weights else {})


def _named_base(name: str) -> dict[str, Any]:
    """Return what is known of the base that an adapter names: a folder, or a repository."""
    from tune_recipes.base_model import BaseModel, read_base_model

    if not name:
        return {}
    is_here = Path(name).expanduser().is_dir()
    if is_here or name.startswith((".", "/", "~")) or name.count("/") != 1:
        return _base(read_base_model(name))
    return _base(BaseModel(path=name, repository=name))


def _base(base: "BaseModel | None") -> dict[str, Any]:
    if base is None:
        return {}
    return {
        "base_model": base.repository,
        "base_commit": base.commit,
        "base_folder": _below_here(base.path) if base.path != base.repository else None,
        "base_name": base.name,
        "license": base.license,
        "license_name": base.license_name,
        "license_link": base.license_link,
        "language": base.language,
    }


def _prompt(prompt_format: PromptFormat | None) -> dict[str, Any]:
    """Return a question, and what the model gets for it where a recipe, not a chat template, puts it."""
    if prompt_format in (None, "raw"):
        return {}
    if prompt_format == "chat":
        return {"prompt": _QUESTION}
    from tune_recipes.data.formats import alpaca_prompt

    return {"prompt": _QUESTION, "prompt_text": alpaca_prompt(_QUESTION)}


def _form(folder: Path) -> Literal["model", "adapter"]:
    return "adapter" if (folder / ADAPTER_CONFIG).is_file() else "model"


def _adapter_method(config: dict[str, Any]) -> str | None:
    if config.get("peft_type") != "LORA":
        return None
    return "dora" if config.get("use_dora") is True else "lora"


def _has_chat_template(folder: Path) -> bool:
    named = (folder / "chat_template.jinja", folder / "chat_template.json")
    return any(path.is_file() for path in named) or "chat_template" in _json(folder / "tokenizer_config.json")


def _without_secret(name: str, value: str) -> str:
    """Return an option's value, redacted by what it looks like, also beside its name."""
    from tune_hub.secrets import redacted

    return redacted(f"{name}: {value}").removeprefix(f"{name}: ")


def _number(value: Any, kind: type[Any]) -> Any:
    return kind(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a file; nothing where there is none: the upload's checks tell what is damaged."""
    try:
        value: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _below_here(path: str) -> str | None:
    """A path that is no one's private matter: it goes down from the folder that a command is typed in."""
    parts = PurePosixPath(path)
    is_folder = not parts.is_absolute() and not {"..", "~"} & set(parts.parts) and ":" not in path
    return path if is_folder else None
