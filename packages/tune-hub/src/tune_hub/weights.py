"""Which files are the weights of a model, where a repository has them in several ways or has several."""

import re
from collections.abc import Iterable, Sequence

from tune_hub.errors import RepositoryNotFoundError
from tune_hub.listing import RepoFile

WHOLE = (
    r"model\.safetensors",
    r"model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json",
    r"pytorch_model\.bin",
    r"pytorch_model-\d+-of-\d+\.bin|pytorch_model\.bin\.index\.json",
    r"consolidated(-\d+-of-\d+|\.\d+)?\.safetensors|consolidated\.safetensors\.index\.json",
    r"consolidated\.\d+\.pth",
    r"(?!adapter_model\.)[^/]+\.safetensors(\.index\.json)?",
    r"lit_model\.pth",
)
"""Ways in which the same weights are published. The first that a repository has is taken, and no other."""
LAST_RESORT = (r".+\.gguf", r"adapter_model\.safetensors", r"adapter_model\.bin")
"""Looked for where no whole model is: an adapter often lies beside the model that it has been merged into."""
FOLDERS = ("", "original/")
TRAINED_AS_THEY_ARE = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors")
ANY_WEIGHTS = re.compile(r".*\.(safetensors|bin|pth|pt|ckpt|gguf|ggml|h5|msgpack|onnx|ot|npz|mlmodel|tflite)")
NO_MODEL = re.compile(r"(.*/)?(optimizer|scheduler|rng_state|training_args|trainer_state)[^/]*")
"""What a trainer leaves, which ends like weights."""


def has_safetensors(paths: Sequence[str]) -> bool:
    """Whether there are weights in Hugging Face's own layout of safetensors, which train as they are."""
    return any(TRAINED_AS_THEY_ARE.fullmatch(path) for path in paths)


def has_weights(paths: Sequence[str]) -> bool:
    """Whether there are weights of any kind."""
    return any(ANY_WEIGHTS.fullmatch(path) for path in paths)


def choose_weights(repository: str, files: Sequence[RepoFile]) -> list[RepoFile]:
    """Return the weights to train, in one copy; none if there are none that we can read.

    Args:
        repository: where they are, for the messages.
        files: what there is to choose from.

    Raises:
        RepositoryNotFoundError: which of several models is meant is not certain.
    """
    ways = [re.escape(folder) + f"({way})" for folder in FOLDERS for way in WHOLE]
    for way in (*ways, *LAST_RESORT):
        found = [file for file in files if re.fullmatch(way, file.path)]
        if not has_weights([file.path for file in found]):  # an index alone is none
            continue
        _check_one_model(repository, [file.path for file in found])
        if found[0].path.startswith("original/"):  # what Meta publishes brings its own tokenizer
            beside = ("original/params.json", "original/tokenizer.model")
            found += [file for file in files if file.path in beside]
        return found
    return []


def check_has_weights(repository: str, files: Sequence[RepoFile], weights: Sequence[RepoFile]) -> None:
    """Make sure that a model is downloaded where nobody asked for less.

    Args:
        repository: where they are, for the message.
        files: all that there are.
        weights: what was chosen of them.

    Raises:
        RepositoryNotFoundError: there are no weights; those that we cannot read are named.
    """
    if weights:
        return
    others = [file.path for file in files if has_weights([file.path]) and not NO_MODEL.fullmatch(file.path)]
    if not others:
        raise RepositoryNotFoundError(
            f"{repository}: none of its {len(files)} files is of a model's weights{some_of(_paths(files))}\n"
            "  choose files with --include, if these are what you want"
        )
    raise RepositoryNotFoundError(
        f"{repository}: has no weights where training looks for them, but others{some_of(others)}\n"
        f"  choose files with --include, such as --include '{_escaped(others[0])}'"
    )


def some_of(paths: Sequence[str]) -> str:
    """The first of some names, for a message, with what stands before them."""
    return f": {', '.join(paths[:5])}{', ...' if len(paths) > 5 else ''}" if paths else ""


def _check_one_model(repository: str, paths: Sequence[str]) -> None:
    """Refuse several sets of weights, of which we cannot know which is meant."""
    weights = [path for path in paths if has_weights([path])]
    has_index = "model.safetensors.index.json" in paths  # which makes one model of files of any names
    patterns = list(dict.fromkeys(pattern_of(path) for path in weights))
    names = {re.sub(r"-\*-of-\d+", "", pattern) for pattern in patterns}
    if len(patterns) == 1 or (has_index and len(patterns) == len(names)):
        return
    if weights[0].endswith(".gguf"):
        raise RepositoryNotFoundError(
            f"{repository}: has {len(patterns)} GGUF models{some_of(patterns)}\n"
            f"  choose one: --include '{patterns[0]}'"
        )
    excluded = " ".join(f"--exclude '{pattern}'" for pattern in patterns[1:4])
    raise RepositoryNotFoundError(
        f"{repository}: has {len(patterns)} sets of weights, of which one is the model{some_of(patterns)}\n"
        f"  leave out all others, such as {excluded}"
    )


def pattern_of(path: str) -> str:
    """What fits a file of weights and the other parts of its model, and no other model's."""
    parts = re.fullmatch(r"(.*)-\d+-of-(\d+)(\.[^/]*)", path)
    if parts:
        return f"{_escaped(parts[1])}-*-of-{parts[2]}{_escaped(parts[3])}"
    parts = re.fullmatch(r"((?:.*/)?consolidated)\.\d+(\.[^/]*)", path)
    return f"{_escaped(parts[1])}.*{parts[2]}" if parts else _escaped(path)


def _escaped(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


def _paths(files: Iterable[RepoFile]) -> list[str]:
    return [file.path for file in files]
