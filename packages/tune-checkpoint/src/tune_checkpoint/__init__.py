"""Read, convert and write language-model checkpoints, without PyTorch.

    from tune_checkpoint import convert, open_checkpoint

    result = convert("model.gguf", "my-model")     # a Hugging Face folder, from a checkpoint of any kind
    weights = open_checkpoint("my-model")          # name -> lazy tensor
    embeddings = weights["model.embed_tokens.weight"].numpy()

Importing this package loads nothing else: every public name brings what it needs when it is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tune_checkpoint._convert import ConversionResult, convert, plan_conversion
    from tune_checkpoint._diff import Difference, diff
    from tune_checkpoint._inspect import Inspection, inspect
    from tune_checkpoint._verify import Verification, verify
    from tune_checkpoint.atomic import atomic_folder
    from tune_checkpoint.checkpoint import Checkpoint, LazyTensor, open_checkpoint
    from tune_checkpoint.errors import (
        CheckpointError,
        CheckpointNotFoundError,
        CorruptFileError,
        OutputExistsError,
        ReadFailedError,
        UnsupportedCheckpointError,
        VerificationError,
        WriteFailedError,
    )
    from tune_checkpoint.kinds import detect_kind
    from tune_checkpoint.peft.merge import merge_adapter
    from tune_checkpoint.plan import Plan, SideFile, TensorPlan, TensorSlice
    from tune_checkpoint.safetensors_writer import SafetensorsWriter
    from tune_checkpoint.shards import TensorOut, write_checkpoint
    from tune_checkpoint.tokenizers.files import TokenizerFiles, tokenizer_files_from

_MODULE_OF = {
    "Checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "CheckpointNotFoundError": "errors",
    "ConversionResult": "_convert",
    "CorruptFileError": "errors",
    "Difference": "_diff",
    "Inspection": "_inspect",
    "LazyTensor": "checkpoint",
    "OutputExistsError": "errors",
    "Plan": "plan",
    "ReadFailedError": "errors",
    "SafetensorsWriter": "safetensors_writer",
    "SideFile": "plan",
    "TensorOut": "shards",
    "TensorPlan": "plan",
    "TensorSlice": "plan",
    "TokenizerFiles": "tokenizers.files",
    "UnsupportedCheckpointError": "errors",
    "Verification": "_verify",
    "VerificationError": "errors",
    "WriteFailedError": "errors",
    "atomic_folder": "atomic",
    "convert": "_convert",
    "detect_kind": "kinds",
    "diff": "_diff",
    "inspect": "_inspect",
    "merge_adapter": "peft.merge",
    "open_checkpoint": "checkpoint",
    "plan_conversion": "_convert",
    "tokenizer_files_from": "tokenizers.files",
    "verify": "_verify",
    "write_checkpoint": "shards",
}

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ConversionResult",
    "CorruptFileError",
    "Difference",
    "Inspection",
    "LazyTensor",
    "OutputExistsError",
    "Plan",
    "ReadFailedError",
    "SafetensorsWriter",
    "SideFile",
    "TensorOut",
    "TensorPlan",
    "TensorSlice",
    "TokenizerFiles",
    "UnsupportedCheckpointError",
    "Verification",
    "VerificationError",
    "WriteFailedError",
    "atomic_folder",
    "convert",
    "detect_kind",
    "diff",
    "inspect",
    "merge_adapter",
    "open_checkpoint",
    "plan_conversion",
    "tokenizer_files_from",
    "verify",
    "write_checkpoint",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
