"""Which files of a repository training needs, and names that no file may have."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from tune_hub.errors import RefusedError, RepositoryNotFoundError
from tune_hub.listing import RepoFile

WEIGHTS = (
    r"model\.safetensors|adapter_model\.safetensors",
    r"model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json",
    r"pytorch_model\.bin|adapter_model\.bin",
    r"pytorch_model-\d+-of-\d+\.bin|pytorch_model\.bin\.index\.json",
    r"consolidated(-\d+-of-\d+|\.\d+)?\.safetensors|consolidated\.safetensors\.index\.json",
    r"consolidated\.\d+\.pth",
    r"(?!.*/).+\.safetensors(\.index\.json)?",
    r"lit_model\.pth",
    r"(?!.*/).+\.gguf",
)
"""Ways in which the same weights are published. The first that a repository has is taken, and no other."""
SAFETENSORS = "model.safetensors"
ANY_WEIGHTS = re.compile(r".*\.(safetensors|bin|pth|pt|ckpt|gguf|ggml|h5|msgpack|onnx|ot|npz|mlmodel|tflite)")
COMPANIONS = re.compile(
    r"[^/]+\.(json|model|jinja|tiktoken|yaml)|[^/]*(tokenizer|vocab|merges)[^/]*\.txt"
    r"|(license|licence|notice|copying|use_policy|readme)[^/]*|additional_chat_templates/[^/]+\.jinja",
    re.IGNORECASE,
)
"""Config, tokenizer, chat template, generation config, licence, card."""
NOT_COMPANIONS = re.compile(
    r".*\.index\.json|\..*|.*\.(pdf|png|jpe?g|gif|svg|webp)|(optimizer|scheduler|trainer_state|training_args).*",
    re.IGNORECASE,
)


def choose_files(
    repository: str, files: Sequence[RepoFile], *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[RepoFile, ...]:
    """Return what is to be downloaded.

    Args:
        repository: where they are, for the messages.
        files: all that there are.
        include: patterns as in a shell (`*.json`, `original/*`; `*` also crosses folders); only what fits one
            of them is taken. Without, it is what training needs: one copy of the weights, and what is beside.
        exclude: patterns of what is left out.

    Raises:
        RepositoryNotFoundError: nothing is left, or which of several weights is meant is not certain.
        RefusedError: a name would lead out of the folder.
    """
    if include:
        chosen = [file for file in files if _fits(file.path, include)]
    else:
        chosen = [*_weights(repository, files, exclude), *_companions(files)]
    chosen = sorted({file.path: file for file in chosen if not _fits(file.path, exclude)}.values(), key=_path)
    if not chosen:
        verb = "fits" if include or exclude else "is of a model"
        raise RepositoryNotFoundError(
            f"{repository}: none of its {len(files)} files {verb}{_some(files)}\n"
            "  choose with --include and --exclude"
        )
    for file in chosen:
        check_name(repository, file.path)
    _check_apart(repository, chosen)
    return tuple(chosen)


def has_safetensors(paths: Sequence[str]) -> bool:
    """Whether there are weights in Hugging Face's own layout of safetensors, which train as they are."""
    trained = re.compile(rf"{WEIGHTS[0]}|{WEIGHTS[1]}")
    return any(trained.fullmatch(path) for path in paths)


def has_weights(paths: Sequence[str]) -> bool:
    """Whether there are weights of any kind."""
    return any(ANY_WEIGHTS.fullmatch(path) for path in paths)


def check_name(repository: str, path: str) -> None:
    """Make sure that a name stays in the folder, on every system.

    Raises:
        RefusedError: it is absolute, leads up, or holds what no name of a file may hold.
    """
    parts = path.split("/")
    if (
        any(part in ("", ".", "..") or part.startswith(".tune-download") for part in parts)
        or re.search(r"[\\\x00-\x1f\x7f]", path)
        or re.match(r"[A-Za-z]:", path)
        or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts)
        or re.search(r"[\ud800-\udfff]", path)
    ):
        raise RefusedError(
            f"{repository}: has a file named {path!a}, which leads out of the folder or cannot be a name; "
            "nothing was downloaded\n  do not trust this repository; or leave it out with --exclude"
        )


def _weights(repository: str, files: Sequence[RepoFile], exclude: Sequence[str]) -> list[RepoFile]:
    kept = [file for file in files if not _fits(file.path, exclude)]
    for folder in ("", "original/"):
        for pattern in WEIGHTS:
            fits = re.compile(re.escape(folder) + f"({pattern})")
            found = [file for file in kept if fits.fullmatch(file.path)]
            if not any(ANY_WEIGHTS.fullmatch(file.path) for file in found):
                continue
            if ".gguf" in pattern and not _is_one_model([file.path for file in found]):
                raise RepositoryNotFoundError(
                    f"{repository}: has {len(found)} GGUF files, each a model{_some(found)}\n"
                    f"  choose one: --include '{found[0].path}'"
                )
            if folder:  # what Meta publishes brings its own tokenizer
                found += [
                    file for file in kept if file.path in (f"{folder}params.json", f"{folder}tokenizer.model")
                ]
            return found
    return []


def _companions(files: Sequence[RepoFile]) -> list[RepoFile]:
    return [
        file
        for file in files
        if COMPANIONS.fullmatch(file.path)
        and not NOT_COMPANIONS.fullmatch(file.path)
        and not ANY_WEIGHTS.fullmatch(file.path)
    ]


def _is_one_model(paths: Sequence[str]) -> bool:
    """Whether GGUF files are the parts of one, as their names say."""
    names = {re.sub(r"-\d{5}-of-\d{5}\.gguf$", "", path) for path in paths}
    return len(paths) == 1 or (len(names) == 1 and all("-of-" in path for path in paths))


def _check_apart(repository: str, files: Sequence[RepoFile]) -> None:
    """Two names that some disks take for one would be written over each other."""
    seen: dict[str, str] = {}
    for file in files:
        other = seen.setdefault(file.path.casefold(), file.path)
        if other != file.path:
            raise RefusedError(
                f"{repository}: has {other} and {file.path}, which not every disk tells apart\n"
                f"  leave one out: --exclude '{file.path}'"
            )


def _fits(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _path(file: RepoFile) -> str:
    return file.path


def _some(files: Sequence[RepoFile]) -> str:
    names = [file.path for file in files[:5]]
    return f": {', '.join(names)}{', ...' if len(files) > 5 else ''}" if names else ""
