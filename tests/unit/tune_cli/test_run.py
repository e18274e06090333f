"""`tune run` around the recipe: what it hands over, what it refuses, what it leaves behind."""

import json
from pathlib import Path

import pytest

from tune_recipes import runs

TINY = """\
import sys

from tune_recipes.schema import Options


class Config(Options, frozen=True):
    x: int = 1
    y: str = "a"


if __name__ == "__main__":
    print(sys.argv[1:])
    sys.exit(Config().x + 2)
"""
WITH_RUN = TINY.replace("    x: int", "    output_dir: str = 'runs'\n    x: int")


@pytest.mark.parametrize("command", ["run", "launch"])
def test_a_recipe_gets_the_config_and_the_words_and_gives_the_exit_status(tune_here, command):
    Path("tiny.py").write_text(TINY)
    Path("c.yaml").write_text("x: 5\n")
    said = tune_here(command, "tiny.py", "x=3", "--config", "c.yaml", "--y", "b c")
    assert (said.code, said.out) == (3, "['--config', 'c.yaml', 'x=3', '--y', 'b c']\n")
    assert tune_here(command, "tiny.py").out == "[]\n"


def test_a_recipe_with_an_output_dir_gets_a_run_folder(tune_here):
    Path("tiny.py").write_text(WITH_RUN)
    assert tune_here("run", "tiny.py", "output_dir=out", "x=3", "--debug").code == 3
    (folder,) = Path("out").iterdir()
    assert folder.name.endswith(f"-tiny-{folder.name[-4:]}")
    assert (folder / "config.yaml").read_text() == "output_dir: out\nx: 3\ny: a\n"
    assert (folder / "recipe.py").read_text() == WITH_RUN


def test_a_recipe_that_fails_before_it_starts_is_told_in_one_message_and_the_run_has_failed(tune_here):
    Path("tiny.py").write_text(WITH_RUN.replace("import sys\n", "import sys\nimport no_such_module\n"))
    said = tune_here("run", "tiny.py")
    assert said.code == 1
    (folder,) = Path("runs").iterdir()
    first, second = said.err.splitlines()
    assert first == "error: ModuleNotFoundError: No module named 'no_such_module'"
    assert second == f"  {folder}/log.txt has the traceback"
    assert "tiny.py" in (folder / "log.txt").read_text()
    info = runs.read_info(folder)
    assert (info.status, info.end is None) == ("failed", False)


def test_a_recipe_without_a_run_that_fails_is_told_in_one_message(tune_here):
    Path("tiny.py").write_text(TINY.replace("sys.exit(", "sys.exit(1 / 0 + "))
    said = tune_here("run", "tiny.py")
    assert (said.code, said.err) == (
        1,
        "error: ZeroDivisionError: division by zero\n  --debug shows the traceback\n",
    )
    with pytest.raises(ZeroDivisionError):
        tune_here("run", "tiny.py", "--debug")


def test_the_config_may_stand_before_the_recipe_and_options_on_both_sides(refused):
    words = ["--config", "demo_full_finetune", "full_finetune", "optim.lr=fast"]
    assert "got 'fast' (from optim.lr=fast)" in refused("run", *words)
    assert "got 'fast'" in refused("run", "full_finetune", "optim.lr=fast", "--config=demo_full_finetune")
    assert "got 'x='" in refused("run", "full_finetune", "--config=demo_full_finetune", "seed=x=")


def test_a_long_prompt_is_not_taken_for_a_file(refused):
    message = refused("run", "generate", "model=nope", "prompt=" + "why? " * 2000)
    assert message.startswith("model: nope: no such folder")


def test_a_file_with_an_equals_sign_can_be_a_recipe(tune_here):
    Path("a=b.py").write_text(TINY)
    assert tune_here("run", "a=b.py").out == "[]\n"


@pytest.fixture
def stopped(tune_here) -> Path:
    """A run folder, as a recipe called tiny left it."""
    Path("tiny.py").write_text(WITH_RUN)
    tune_here("run", "tiny.py")
    (folder,) = Path("runs").iterdir()
    return folder


def test_resume_runs_the_recipe_of_the_folder(tune_here, stopped):
    for words in (
        ["--resume", stopped],
        ["tiny.py", f"--resume={stopped}"],
        ["--resume", stopped, "tiny.py"],
    ):
        said = tune_here("run", *words)
        assert (said.code, said.out) == (3, f"['--resume', '{stopped}']\n")


def test_a_resumed_recipe_imports_what_stands_beside_the_original(tune_here, stopped):
    (stopped / "recipe.py").write_text("import sys\nprint(sys.path[:2])\n")
    out = tune_here("run", "--resume", stopped).out
    assert out == f"{[str(stopped.resolve()), str(Path.cwd())]}\n"


def test_resume_refuses_what_would_change_the_run(refused, stopped):
    def resume(*words: str) -> str:
        return refused("run", *words, "--resume", stopped)

    again = f"`tune run {stopped}/recipe.py --config {stopped}/config.yaml"
    assert "x=5: a resumed run keeps its config" in resume("tiny.py", "x=5")
    assert f"{again} x=5`" in resume("tiny.py", "x=5")
    assert f"{again} x=5`" in resume("x=5")
    assert "--config c.yaml: a resumed run keeps its config" in resume("--config", "c.yaml")
    assert f"is a run of tiny, not of generate\n  to go on with it: `tune run --resume {stopped}`" in resume(
        "generate"
    )


def test_resume_refuses_a_folder_that_is_not_whole(refused, stopped):
    (stopped / "recipe.py").unlink()
    assert refused("run", "--resume", stopped) == f"{stopped}: not a whole run folder: no recipe.py in it"
    (stopped / "config.yaml").unlink()
    assert "no recipe.py and no config.yaml in it" in refused("run", "--resume", stopped)
    (stopped / "run.json").write_text(json.dumps({"id": 3}))
    assert "damaged, or not written by tune" in refused("run", "--resume", stopped)
