"""The plan that turns a GGUF file into a Hugging Face folder."""

from pathlib import Path

from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.gguf.config import assumed_settings, generation_config, model_config
from tune_checkpoint.gguf.llama import LlamaShape, plan_tensors, read_shape
from tune_checkpoint.gguf.model_card import card_files
from tune_checkpoint.gguf.parts import read_gguf
from tune_checkpoint.gguf.reader import GgufHeader
from tune_checkpoint.gguf.tokenizer import Vocabulary, read_vocabulary, tokenizer_files
from tune_checkpoint.plan import Kind, Plan, SideFile
from tune_checkpoint.planning import json_file


def plan_gguf(path: Path, dtype: str | None, kind: Kind) -> Plan:
    """Plan the conversion of a GGUF model.

    Args:
        path: its file, any of its parts, or a folder with nothing else of GGUF in it.
        dtype: the type of the output (`BF16`); None keeps each tensor's, with F32 for quantised ones.
        kind: `gguf`, for the plan.
    """
    header = read_gguf(path)
    shape = read_shape(header)
    tensors = plan_tensors(header, shape, dtype)
    vocabulary = read_vocabulary(header.metadata)
    ids = {} if vocabulary is None else vocabulary.ids
    config = model_config(header, shape, tensors, ids)
    files, warnings = _tokenizer(header, shape, vocabulary, config["max_position_embeddings"])
    files = [
        json_file("config.json", config),
        json_file("generation_config.json", generation_config(header.metadata, ids)),
        *files,
        *card_files(header.metadata),
    ]
    warnings = [*assumed_settings(header.metadata), *warnings]
    return Plan(str(path), kind, shape.architecture, tensors, tuple(files), tuple(warnings))


def _tokenizer(
    header: GgufHeader, shape: LlamaShape, vocabulary: Vocabulary | None, max_length: int
) -> tuple[list[SideFile], list[str]]:
    if vocabulary is None:
        return [], ["tokenizer.json: the file has no vocabulary; copy the original model's tokenizer files"]
    if len(vocabulary.tokens) > shape.vocab_size:
        raise CorruptFileError(
            f"{header.path}: {len(vocabulary.tokens)} tokens, but the embedding has {shape.vocab_size} rows"
        )
    return tokenizer_files(header.metadata, vocabulary, max_length)
