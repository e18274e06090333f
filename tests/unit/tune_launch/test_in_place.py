"""A script in this process behaves as in one of its own, and leaves nothing behind."""

import json
import sys
from pathlib import Path

import pytest

from tune_launch import run_in_place


@pytest.fixture
def script(tmp_path) -> Path:
    return tmp_path / "a script é.py"


def test_the_script_sees_its_arguments_its_folder_and_itself_as_main(script, tmp_path, capsys):
    script.write_text(
        "import json, sys\n"
        "print(json.dumps([sys.argv, sys.path[:2], __name__, __file__, sys.modules['__main__'].__file__]))\n"
    )
    assert run_in_place(script, ["a=1", "--b", "é c"], import_from=tmp_path / "more") == 0
    argv, path, name, file, main_file = json.loads(capsys.readouterr().out)
    assert argv == [str(script), "a=1", "--b", "é c"]
    assert path == [str(tmp_path), str(tmp_path / "more")]
    assert (name, file, main_file) == ("__main__", str(script), str(script))


def test_the_folder_is_absolute_so_that_the_script_may_go_elsewhere(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script.write_text("import sys; print(sys.path[0])\n")
    run_in_place(script.name, [])
    assert capsys.readouterr().out == f"{tmp_path}\n"


def test_modules_beside_the_script_can_be_imported(script, tmp_path, capsys):
    (tmp_path / "beside_the_script.py").write_text("X = 3\n")
    script.write_text("from beside_the_script import X; print(X)\n")
    try:
        run_in_place(script, [])
    finally:
        sys.modules.pop("beside_the_script", None)
    assert capsys.readouterr().out == "3\n"


@pytest.mark.parametrize(
    ("leave", "status", "told"),
    [
        ("", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(None)", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit(130)", 130, ""),
        ("sys.exit(True)", 1, ""),
        ("sys.exit('it failed')", 1, "it failed\n"),
        ("raise SystemExit(7)", 7, ""),
    ],
)
def test_the_exit_status_is_what_a_process_would_have(script, capsys, leave, status, told):
    script.write_text(f"import sys\n{leave}\n")
    assert run_in_place(script, []) == status
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_the_script_raises_passes_through(script, error):
    script.write_text(f"raise {error.__name__}('mine')\n")
    with pytest.raises(error, match="mine"):
        run_in_place(script, [])


def test_a_script_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        run_in_place(tmp_path / "nope.py", [])


@pytest.mark.parametrize("leave", ["", "sys.exit(3)", "raise ValueError"])
def test_the_state_of_this_process_is_as_before(script, leave):
    argv, path, main = sys.argv, sys.path, sys.modules["__main__"]
    before = argv[:], path[:]
    script.write_text(
        f"import sys\nsys.argv = ['other']\nsys.path.append('/x')\nsys.path = ['/y', *sys.path]\n{leave}\n"
    )
    try:
        run_in_place(script, ["a"])
    except ValueError:
        assert leave.startswith("raise")
    assert (sys.argv, sys.path) == before
    assert sys.argv is argv
    assert sys.path is path
    assert sys.modules["__main__"] is main


def test_a_script_can_run_twice(script, capsys):
    script.write_text("print('once')\n")
    assert [run_in_place(script, []), run_in_place(script, [])] == [0, 0]
    assert capsys.readouterr().out == "once\nonce\n"
