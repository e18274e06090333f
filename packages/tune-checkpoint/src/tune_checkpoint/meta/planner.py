"""The plans that turn Meta's and Mistral's checkpoints into Hugging Face folders."""

from pathlib import Path

from tune_checkpoint.checkpoint import read_tensors
from tune_checkpoint.errors import CheckpointNotFoundError, CorruptFileError
from tune_checkpoint.kinds import META_SHARD, MISTRAL_FILE
from tune_checkpoint.meta.assemble import Parts, decoder_sizes, plan_decoder
from tune_checkpoint.meta.companions import find_vocabulary, legal_files, tokenizer_companions
from tune_checkpoint.meta.config import config_files
from tune_checkpoint.meta.decoder import EMBEDDING, DecoderSizes
from tune_checkpoint.meta.generations import generation_of, llama_settings, mistral_settings
from tune_checkpoint.meta.params import PARAMS, Params, read_params, sliding_window
from tune_checkpoint.plan import Kind, Plan, TensorSlice
from tune_checkpoint.safetensors_reader import read_index

MISTRAL_INDEX = "consolidated.safetensors.index.json"


def plan_meta(path: Path, dtype: str | None, kind: Kind) -> Plan:
    """Plan the conversion of `consolidated.NN.pth` and `params.json`.

    Args:
        path: the folder, or a file in it, which stands for all of them.
        dtype: the type of the output (`BF16`); None keeps each tensor's.
        kind: `meta`, for the plan.
    """
    folder = path if path.is_dir() else path.parent
    params, warnings = read_params(folder)
    is_whole = path.is_file() and not META_SHARD.fullmatch(path.name)
    files = [path] if is_whole else _meta_files(folder)
    parts = Parts(folder, [(file, read_tensors(file)) for file in files])
    return plan_with_params(path, parts, params, warnings, dtype, kind)


def plan_mistral(path: Path, dtype: str | None, kind: Kind) -> Plan:
    """Plan the conversion of `consolidated.safetensors`, whole or in several files, and `params.json`.

    Args:
        path: the folder, or a file in it, which stands for all of them.
        dtype: the type of the output (`BF16`); None keeps each tensor's.
        kind: `mistral`, for the plan.
    """
    folder = path if path.is_dir() else path.parent
    params, warnings = read_params(folder)
    parts = Parts(folder, [(folder, _mistral_tensors(folder))])
    return plan_with_params(path, parts, params, warnings, dtype, kind)


def plan_with_params(
    path: Path, parts: Parts, params: Params, warnings: list[str], dtype: str | None, kind: Kind
) -> Plan:
    """Plan the conversion of tensors under Meta's names, whose sizes are in `params.json`.

    Args:
        path: what was given, for the plan.
        parts: the tensors; `parts.path` is their folder.
        params: the sizes.
        warnings: what is to be said already.
        dtype: the type of the output; None keeps each tensor's.
        kind: for the plan.
    """
    folder = parts.path
    needs_head = not params.tied_embeddings and kind != "torchtune"
    sizes = decoder_sizes(parts, params.stated, needs_head=needs_head)
    _check_stated(folder / PARAMS, params, sizes)
    tensors = plan_decoder(parts, sizes, dtype)
    vocabulary = find_vocabulary(folder, sizes.vocab_size)
    generation = None
    if params.is_mistral:
        settings, assumed = mistral_settings(params, sliding_window(folder / PARAMS, params))
    else:
        present = parts.pieces(EMBEDDING)[0].dtype
        generation = generation_of(
            params,
            vocab_size=sizes.vocab_size,
            is_tied=sizes.is_tied,
            dtype=present,
            tokenizer=vocabulary.kind if vocabulary else None,
        )
        settings, assumed = llama_settings(params, generation)
    tokenizer, tokens, lacking = tokenizer_companions(
        vocabulary, generation, settings.max_position_embeddings, sizes.vocab_size
    )
    files = [*config_files(sizes, settings, tensors[0].dtype, tokens), *tokenizer, *legal_files(folder)]
    return Plan(
        source=str(path),
        kind=kind,
        architecture=settings.architecture,
        tensors=tensors,
        files=tuple(files),
        warnings=(*warnings, *assumed, *lacking),
    )


def _check_stated(path: Path, params: Params, sizes: DecoderSizes) -> None:
    """Hold what `params.json` states, and need not, against the weights."""
    for key, stated, present in (
        ("vocab_size", params.vocab_size, sizes.vocab_size),
        ("hidden_dim", params.hidden_dim, sizes.intermediate_size),
    ):
        if stated is not None and stated > 0 and stated != present:
            raise CorruptFileError(
                f"{path}: {key} is {stated}, but the weights have {present}; they are not of one model"
            )


def _meta_files(folder: Path) -> list[Path]:
    """`consolidated.00.pth`, `consolidated.01.pth`, ... without a gap."""
    files = {int(match[1]): path for path in folder.iterdir() if (match := META_SHARD.fullmatch(path.name))}
    if not files:
        raise CheckpointNotFoundError(f"{folder}: no consolidated.00.pth")
    missing = [number for number in range(max(files)) if number not in files]
    if missing:
        raise CorruptFileError(
            f"{folder}: consolidated.{missing[0]:02}.pth is missing, though later files are there; add it"
        )
    return [files[number] for number in sorted(files)]


def _mistral_tensors(folder: Path) -> list[TensorSlice]:
    """The tensors of all files, each of which has whole ones."""
    index = folder / MISTRAL_INDEX
    weight_map = read_index(index) if index.is_file() else None
    if weight_map is None:
        files = sorted(path for path in folder.iterdir() if MISTRAL_FILE.fullmatch(path.name))
    else:
        files = [folder / name for name in dict.fromkeys(weight_map.values())]
    tensors: dict[str, TensorSlice] = {}
    for file in files:
        for tensor in read_tensors(file):
            if tensor.name in tensors:
                raise CorruptFileError(
                    f"{file}: tensor {tensor.name!r} is in {Path(tensors[tensor.name].path).name} too; "
                    "leave one model in the folder"
                )
            tensors[tensor.name] = tensor
    missing = [name for name in weight_map or () if name not in tensors]
    if missing:
        raise CorruptFileError(f"{index}: tensor {missing[0]!r} is in none of the files that it names")
    if not tensors:
        raise CheckpointNotFoundError(f"{folder}: no tensor in any consolidated*.safetensors")
    return list(tensors.values())
