"""`tune cp` copies a recipe or a config, and overwrites nothing unless told to."""

import os
from pathlib import Path

import pytest

from tune_recipes.catalog import CONFIGS, RECIPES

RECIPE = (RECIPES / "full_finetune.py").read_bytes()
CONFIG = (CONFIGS / "full_finetune" / "demo_full_finetune.yaml").read_bytes()


@pytest.mark.parametrize("name", ["full_finetune", "full_finetune.py"])
@pytest.mark.parametrize(
    ("words", "target"),
    [
        ([], "full_finetune.py"),
        (["."], "full_finetune.py"),
        (["--to", "."], "full_finetune.py"),
        (["mine.py"], "mine.py"),
        (["mine"], "mine.py"),
        (["--to", "mine"], "mine.py"),
        (["--to=mine.py"], "mine.py"),
        (["my"], "my/full_finetune.py"),
        (["my/"], "my/full_finetune.py"),
        (["--to", "my/full_finetune.py"], "my/full_finetune.py"),
        (["my/x"], "my/x.py"),
        (["link"], "link/full_finetune.py"),
        (["new/", "--make-parents"], "new/full_finetune.py"),
        (["--make-parents", "--to", "new/deep/x"], "new/deep/x.py"),
        (["a b é.py"], "a b é.py"),
        ([".hidden"], ".hidden.py"),
        (["日本/", "--make-parents"], "日本/full_finetune.py"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_recipe_is_copied_to_where_it_was_wished(tune_here, name, words, target):
    Path("my").mkdir(exist_ok=True)
    Path("link").symlink_to("my")
    assert tune_here("cp", name, *words) == (0, f"Copied full_finetune.py to {target}\n", "")
    assert Path(target).read_bytes() == RECIPE


@pytest.mark.parametrize(
    ("words", "target"),
    [([], "demo_full_finetune.yaml"), (["x"], "x.yaml"), (["x.yaml"], "x.yaml"), (["x.yml"], "x.yml")],
)
def test_a_config_is_copied_with_its_suffix(tune_here, words, target):
    assert (
        tune_here("cp", "demo_full_finetune", *words).out == f"Copied demo_full_finetune.yaml to {target}\n"
    )
    assert Path(target).read_bytes() == CONFIG


def test_options_may_stand_before_the_name(tune_here):
    assert tune_here("cp", "--to", "x.py", "-f", "full_finetune").code == 0
    assert Path("x.py").read_bytes() == RECIPE


def test_a_file_that_is_there_is_not_overwritten(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x.py", "real.py"):
        Path(name).write_text("mine")
    Path("link.py").symlink_to("real.py")
    Path("dangling.py").symlink_to("nowhere.py")
    for target in ("x.py", "x", "link.py", "dangling.py"):
        message = refused("cp", "full_finetune", target)
        assert message.endswith(" is there already\n  --force replaces it, or choose another name with --to")


@pytest.mark.parametrize("flag", ["-f", "--force"])
def test_force_replaces_it(tune_here, flag):
    Path("x.py").write_text("mine")
    assert tune_here("cp", "full_finetune", "x.py", flag).code == 0
    assert Path("x.py").read_bytes() == RECIPE


def test_force_replaces_a_link_and_not_what_it_points_to(tune_here):
    Path("real.py").write_text("mine")
    Path("link.py").symlink_to("real.py")
    tune_here("cp", "full_finetune", "link.py", "--force")
    assert Path("real.py").read_text() == "mine"
    assert Path("link.py").read_bytes() == RECIPE


@pytest.mark.parametrize("flag", ["-n", "--no-clobber"])
def test_no_clobber_leaves_it_and_says_so(tune_here, flag):
    Path("x.py").write_text("mine")
    assert tune_here("cp", "full_finetune", "x.py", flag) == (0, "x.py is there already; left as it is\n", "")
    assert Path("x.py").read_text() == "mine"
    assert tune_here("cp", "full_finetune", "y.py", flag).out == "Copied full_finetune.py to y.py\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "NAME is missing\n  `tune cp --help` shows what it takes"),
        (
            ["full_finetun"],
            "no such built-in recipe or config; did you mean full_finetune?\n  `tune ls` lists them",
        ),
        (["full_finetune.yaml"], "did you mean full_finetune.py?"),
        (["demo_full_finetune.py"], "did you mean demo_full_finetune.yaml?"),
        (["demo_ful"], "did you mean demo_full_finetune?"),
        (["../full_finetune"], "no such built-in recipe or config"),
        ([""], "'': no such built-in recipe or config"),
        (["full_finetune", "a", "b"], "b: one word more than `tune cp` takes"),
        (["full_finetune", "a", "--to", "b"], "where to: a or b? Give DEST or --to, not both"),
        (["full_finetune", "-n", "-f"], "--force replaces a file, --no-clobber leaves it: give one of them"),
        (["full_finetune", "--to"], "--to: a value must follow"),
        (["full_finetune", "x.yaml"], "x.yaml: a copy of full_finetune.py must end in .py"),
        (["demo_full_finetune", "x.py"], "x.py: a copy of demo_full_finetune.yaml must end in .yaml"),
        (["full_finetune", "--no-clober"], "--no-clober: no such option; did you mean --no-clobber?"),
        (["full_finetune", "file.txt/x.py"], "file.txt is a file, not a folder"),
        (["full_finetune", "file.txt/x.py", "--make-parents"], "file.txt is a file, not a folder"),
        (["full_finetune", "file.txt/a/b/", "--make-parents"], "file.txt is a file, not a folder"),
        (["full_finetune", "x" * 300 + ".py"], "cannot be written: File name too long"),
        (["full_finetune", "\udcff.py"], "not UTF-8 text"),
    ],
    ids=lambda value: (
        " ".join(value)[:40].encode("ascii", "replace").decode() if isinstance(value, list) else ""
    ),
)
def test_what_cannot_be_copied_is_told(refused, tmp_path, words, says):
    (tmp_path / "file.txt").touch()
    assert says in refused("cp", *words)


def test_a_missing_folder_is_told_with_the_command_that_makes_it(refused, tune_here):
    message = refused("cp", "full_finetune", "new folder/x.py")
    assert message == (
        "new folder: no such folder\n"
        "  to make it: `tune cp full_finetune --to 'new folder/x.py' --make-parents`"
    )
    assert tune_here("cp", "full_finetune", "--to", "new folder/x.py", "--make-parents").code == 0


def test_home_is_the_home_folder(tune_here, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tune_here("cp", "full_finetune", "--to=~/x.py").code == 0
    assert (tmp_path / "x.py").exists()


def test_a_folder_that_may_not_be_written_is_told(refused, tmp_path):
    folder = tmp_path / "read only"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    assert "cannot be written: Permission denied" in refused("cp", "full_finetune", "read only/x.py")
