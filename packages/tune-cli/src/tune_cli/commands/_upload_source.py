"""What `tune upload` publishes: the files of a run or a folder, looked through and made complete."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tune_hub.upload_files import LocalFile

CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = (".safetensors", ".gguf", ".pt", ".pth", ".bin", ".ckpt")
_CERTAIN_WEIGHTS = (".safetensors", ".gguf")
_TORCH_BEGINS = (b"PK\x03\x04", b"\x80")
"""How a file of torch.save begins: a ZIP archive, or of old a pickle."""


class Source(NamedTuple):
    """What is to be published."""

    path: Path
    """The folder, `final` of a run, or the file."""
    run: Path | None
    """The run that it is of."""
    files: "tuple[LocalFile, ...]"

    @property
    def has_card(self) -> bool:
        """Whether the folder brings a model card."""
        return any(file.path == CARD for file in self.files)


def find_source(path: Path, *, include_optimizer: bool) -> Source:
    """Return what a path of the command line stands for.

    Args:
        path: A run folder, a folder of a model or an adapter, or a file.
        include_optimizer: Take what the training goes on from, too; of a run, its last checkpoint.

    Raises:
        UserError: The run has made no model yet.
        HubError: There is nothing that can be published.
    """
    from tune_hub.upload_files import all_files_of, files_of
    from tune_recipes.base_model import RESULTS
    from tune_recipes.catalog import shown
    from tune_recipes.errors import UserError
    from tune_recipes.runs import CHECKPOINTS, FINAL, INFO, read_info

    run = next((at for at in (path, path.resolve().parent) if (at / INFO).is_file()), None)
    if run is None or (run != path and path.resolve().name not in RESULTS):
        return Source(path, None, files_of(path, include_optimizer=include_optimizer))
    folder = path / FINAL if run == path else path
    if not folder.is_dir():
        raise UserError(
            f"{path}: the run is not finished: it is {read_info(run).status}, and has no {FINAL}/ yet\n"
            f"  `tune run --resume {shown(path)}` goes on with it"
        )
    files = files_of(folder, include_optimizer=include_optimizer)
    if include_optimizer:
        saved = sorted((run / CHECKPOINTS).glob("step_*/checkpoint.json"))
        if not saved:
            raise UserError(f"{run}: --include-optimizer: the run kept no checkpoint in {CHECKPOINTS}/")
        files += all_files_of(saved[-1].parent, f"{CHECKPOINTS}/{saved[-1].parent.name}")
    return Source(folder, run, files)


def proposed_name(source: Source) -> str:
    """Return what a repository of this would be called."""
    import re

    from tune_recipes.run_facts import run_facts

    if source.run is not None:
        name = run_facts(source.run).label
    else:
        name = source.path.resolve().name if source.path.is_dir() else source.path.stem
    return re.sub(r"[^A-Za-z0-9.]+|[.-]{2,}", "-", name).strip("-.")[:96] or "model"


def check_weights(source: Source) -> None:
    """Read all weights that are published, not only those that would be loaded, and make sure they are sound.

    Raises:
        CheckpointError: They are not, or there are none.
    """
    from tune_checkpoint import UnsupportedCheckpointError

    path = source.path
    if path.is_file():
        if path.suffix.lower() in _WEIGHTS:
            _verify(path)
        return
    named = [path / file.path for file in source.files if Path(file.path).suffix.lower() in _WEIGHTS]
    files = [file for file in named if file.is_file()]  # those of a run's checkpoint lie elsewhere
    checked: set[Path] = set()
    unreadable: Exception | None = None
    for folder in dict.fromkeys([path, *(file.parent for file in files)]):
        try:
            checked |= _verified_in(folder)
        except UnsupportedCheckpointError as error:  # as two quantisations beside each other
            unreadable = unreadable or error
    for file in files:
        if file.resolve() not in checked and _is_checkpoint(file):
            _verify(file)
            checked.add(file.resolve())
    if not checked and unreadable is not None:
        raise unreadable


def _verified_in(folder: Path) -> set[Path]:
    """Verify what would be loaded from a folder. Returns its files of weights."""
    from tune_checkpoint.listing import all_tensors, kind_of

    kind = kind_of(folder)
    _verify(folder)
    return {Path(tensor.path).resolve() for tensor in all_tensors(folder, kind)}


def _is_checkpoint(file: Path) -> bool:
    """Whether a file can be verified; `.bin` and `.pt` may be anything."""
    from tune_checkpoint import CheckpointError, UnsupportedCheckpointError
    from tune_checkpoint.listing import kind_of

    if file.suffix.lower() in _CERTAIN_WEIGHTS:
        return True
    with file.open("rb") as opened:
        if not opened.read(4).startswith(_TORCH_BEGINS):
            return False
    try:
        kind_of(file)
    except UnsupportedCheckpointError:
        return False
    except CheckpointError:  # of which it will be told what
        return True
    return True


def _verify(path: Path) -> None:
    from tune_checkpoint import VerificationError, verify
    from tune_checkpoint.progress import ProgressLine

    with ProgressLine("verifying") as progress:
        found = verify(path, progress=progress)
    if not found.ok:
        problems = "\n".join(f"  {problem.message}" for problem in found.problems[:20])
        raise VerificationError(f"{path}: damaged, so it is not published:\n{problems}")


def refuse_secrets(source: Source) -> None:
    """Look for tokens and keys in all text that would be published.

    Raises:
        RefusedError: Something looks like one.
    """
    from tune_hub.errors import RefusedError
    from tune_hub.secrets import find_secrets

    shown_at = {str(file.source): file.path for file in source.files if file.source}
    if found := find_secrets(shown_at):
        lines = [
            f"  {shown_at[secret.path]}:{secret.line}: {secret.kind}, {secret.shown}" for secret in found
        ]
        raise RefusedError(
            f"{source.path}: what looks like a secret would be published:\n"
            + "\n".join(lines[:20])
            + "\n  take it out of the file, and make it invalid if others have seen it"
        )


def card_of(source: Source, repository: str, base: str | None) -> bytes:
    """Return a model card for what has none.

    Args:
        source: What is published.
        repository: Where.
        base: Of an adapter, the repository of the model that it was trained on.
    """
    import msgspec

    from tune_cli.commands._card_facts import card_facts
    from tune_hub.card import model_card

    name = repository.rpartition("/")[2]
    facts = msgspec.structs.replace(card_facts(source.path), repository=repository, name=name)
    if base and facts.base_model != base:
        facts = msgspec.structs.replace(facts, base_model=base, base_commit=None)
    return model_card(facts).encode()


def asked_for_repository(source: Source, user: str) -> str:
    """Propose a repository on a terminal, and take what is answered.

    Raises:
        UserError: There is no terminal to ask on, or the answer is no.
    """
    from tune_recipes.catalog import shown
    from tune_recipes.errors import UserError

    name = f"{user}/{proposed_name(source)}"
    where = source.run or source.path
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError(f"REPO is missing\n  `tune upload {shown(where)} {name}` would be one")
    print(f"Upload to {name}? [Y/n, or another name] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip()
    if answer.lower() in ("n", "no"):
        raise UserError(f"nothing was uploaded\n  name the repository: `tune upload {shown(where)} REPO`")
    return name if answer.lower() in ("", "y", "yes") else answer


def plan_lines(rows: Sequence[tuple[str, str, int]]) -> list[str]:
    """Return a table of files.

    Args:
        rows: State, path and size of each.
    """
    from tune_checkpoint.text import size_text

    sizes = [size_text(size) for _, _, size in rows]
    width = max(map(len, sizes), default=0)
    return [
        f"  {state:7}  {size:>{width}}  {path}" for (state, path, _), size in zip(rows, sizes, strict=True)
    ]
