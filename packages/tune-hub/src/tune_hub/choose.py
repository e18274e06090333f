"""Which files of a repository training needs, and names that no file may have."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from unicodedata import normalize

from tune_hub.errors import RefusedError, RepositoryNotFoundError
from tune_hub.listing import RepoFile
from tune_hub.weights import ANY_WEIGHTS, check_has_weights, choose_weights, some_of

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
        RepositoryNotFoundError: nothing is left, no weights are there, or which of several is not certain.
        RefusedError: a name would lead out of the folder.
    """
    if include:
        chosen = [file for file in files if _fits(file.path, include)]
    else:
        weights = choose_weights(repository, [file for file in files if not _fits(file.path, exclude)])
        if not exclude:
            check_has_weights(repository, files, weights)
        chosen = [*weights, *_companions(files, weights)]
    chosen = sorted({file.path: file for file in chosen if not _fits(file.path, exclude)}.values(), key=_path)
    if not chosen:
        raise RepositoryNotFoundError(
            f"{repository}: none of its {len(files)} files fits{some_of([file.path for file in files])}\n"
            "  choose with --include and --exclude"
        )
    for file in chosen:
        check_name(repository, file.path)
    _check_apart(repository, chosen)
    return tuple(chosen)


def check_name(repository: str, path: str) -> None:
    """Make sure that a name stays in the folder, on every system.

    Raises:
        RefusedError: it is absolute, leads up, or holds what no name of a file may hold.
    """
    parts = path.split("/")
    if (
        any(part in ("", ".", "..") or part.casefold().startswith(".tune-download") for part in parts)
        or re.search(r"[\\\x00-\x1f\x7f]", path)
        or re.match(r"[A-Za-z]:", path)
        or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts)
        or re.search(r"[\ud800-\udfff]", path)
    ):
        raise RefusedError(
            f"{repository}: has a file named {path!a}, which leads out of the folder or cannot be a name; "
            "nothing was downloaded\n  do not trust this repository; or leave it out with --exclude"
        )


def _companions(files: Sequence[RepoFile], weights: Sequence[RepoFile]) -> list[RepoFile]:
    found = [
        file
        for file in files
        if COMPANIONS.fullmatch(file.path)
        and not NOT_COMPANIONS.fullmatch(file.path)
        and not ANY_WEIGHTS.fullmatch(file.path)
    ]
    if weights and not weights[0].path.startswith("adapter_"):  # who loads a model would look for the adapter
        return [file for file in found if file.path != "adapter_config.json"]
    return found


def _check_apart(repository: str, files: Sequence[RepoFile]) -> None:
    """Two names that some disks take for one would be written over each other."""
    seen: dict[str, str] = {}
    for file in files:
        other = seen.setdefault(normalize("NFC", file.path).casefold(), file.path)
        if other != file.path:
            raise RefusedError(
                f"{repository}: has {other} and {file.path}, which not every disk tells apart\n"
                f"  leave one out: --exclude '{file.path}'"
            )


def _fits(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _path(file: RepoFile) -> str:
    return file.path
