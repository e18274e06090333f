"""The commands in README and docs run, in their order, and print what is shown."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support import RunTune

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
# README's run of the demo and quickstart's are the same, and long.
RUNNABLE = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES if page != "README.md"}


def console_commands(text: str) -> list[tuple[list[str], str]]:
    """Return the words of each command in the console blocks, and the output shown under it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, shown = part.partition("\n")
            words = shlex.split(command, comments=True)
            found.append((words, shown))
    return found


@pytest.mark.parametrize("page", [page for page, text in RUNNABLE.items() if console_commands(text)])
def test_commands_in_the_docs_run_and_print_what_is_shown(
    page: str, tmp_path: Path, tune_here: RunTune, smollm2_gguf: Path
):
    (tmp_path / smollm2_gguf.name).symlink_to(smollm2_gguf)
    example = re.search(r"^```json\n(.*?)^```", RUNNABLE[page], re.M | re.S)
    (tmp_path / "mine.jsonl").write_text(example[1] if example else "")
    for words, shown in console_commands(RUNNABLE[page]):
        runs = sorted((tmp_path / "runs").glob("*"), key=lambda path: path.stat().st_mtime)
        words = [word.replace("runs/RUN", f"runs/{runs[-1].name}" if runs else "") for word in words]
        if words[0] == "python":
            subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True, capture_output=True)
            continue
        assert words[0] == "tune"
        done = tune_here(*words[1:])
        assert done.code == 0, f"{words}: {done.err}"
        assert done.out == shown or not shown


def test_the_readme_begins_with_the_two_commands():
    commands = re.findall(r"^\$ (.*?)(?:\s+#.*)?$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert commands[:3] == [
        "pip install uv",
        "uv run tune run full_finetune --config demo_full_finetune",
        "uv run pytest",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / page).parent.joinpath(target).exists(), target
