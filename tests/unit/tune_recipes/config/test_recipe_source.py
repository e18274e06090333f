"""The Config of a recipe file is read without running the recipe."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tune_recipes.config import load_config
from tune_recipes.errors import UserError
from tune_recipes.options import list_options
from tune_recipes.recipe_source import field_docs, read_config_class

TOP = "from tune_recipes.schema import Options\n"


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], type[msgspec.Struct]]:
    def read_(source: str) -> type[msgspec.Struct]:
        (tmp_path / "r.py").write_text(source, encoding="utf-8")
        return read_config_class(tmp_path / "r.py")

    return read_


def default_of_x(config: type[msgspec.Struct]) -> object:
    return next(option.default for option in list_options(config) if option.path == "x")


@pytest.mark.parametrize(
    "before",
    [
        "X = 3\n",
        "Y = 1\nX = Y + 2\n",
        "X: int = 3\n",
        "X = 1\nX += 2\n",
        "X, Y = 3, 4\n",
        "def three():\n    return SIZE\nSIZE = 3\nX = three()\n",
        "if True:\n    X = 3\nelse:\n    X = 4\n",
        "try:\n    import no_such_module\n    X = 4\nexcept ImportError:\n    X = 3\n",
        "try:\n    from os import no as X\nexcept ImportError:\n    from calendar import THURSDAY as X\n",
        "from calendar import THURSDAY as X\n",
        "import calendar\nX = int(calendar.THURSDAY)\n",
        "import os.path\nimport os as X_\nX = len(os.path.join('a', 'b'))\n",
        "from calendar import *\nX = THURSDAY\n",
        "class Named:\n    X = 3\nX = Named.X\n",
        "with open(__file__) as file:\n    X = 3\n",
    ],
)
def test_whatever_config_needs_is_executed(read, before):
    assert default_of_x(read(f"{TOP}{before}class Config(Options, frozen=True):\n    x: int = X\n")) == 3


def test_nothing_else_is_executed(read):
    source = f"raise SystemExit(1)\nBAD = 1 / 0\n{TOP}class Config(Options, frozen=True):\n    x: int = 3\n"
    assert default_of_x(read(f"{source}\nstart(main, Config)\n")) == 3


def test_base_classes_and_nested_structs_are_found(read):
    config = read(
        f"{TOP}class Size(Options, frozen=True):\n    width: int = 3\n    '''How wide.'''\n"
        "class Base(Options, frozen=True):\n    x: int = 3\n    '''From the base.'''\n"
        "class Config(Base, frozen=True):\n    size: Size = Size(width=7)\n    '''Its size.'''\n"
    )
    options = {option.path: option for option in list_options(config)}
    assert (options["size.width"].default, options["size.width"].doc) == (7, "How wide.")
    assert options["x"].doc == "From the base."


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
@pytest.mark.parametrize("annotation", ["'Size'", "'Size | None'", "list['Size']", "dict[str, 'Size']"])
def test_string_annotations_are_resolved(read, future, annotation):
    config = read(
        f"{future}{TOP}class Config(Options, frozen=True):\n    x: {annotation}\n"
        "class Size(Options, frozen=True):\n    width: int = 3\n"
    )
    assert msgspec.structs.fields(config)[0].required


def test_postponed_annotations_may_name_what_comes_later(read):
    config = read(
        f"from __future__ import annotations\n{TOP}"
        "class Config(Options, frozen=True):\n    size: Size | None = None\n"
        "class Size(Options, frozen=True):\n    x: int = 3\n"
    )
    assert [option.path for option in list_options(config)] == ["size.x"]


def test_a_default_with_a_dollar_sign_is_nothing_but_text(read):
    config = read(f"{TOP}class Config(Options, frozen=True):\n    x: str = '${{y}}'\n    z: str = '???'\n")
    assert load_config(config).tree() == {"x": "${y}", "z": "???"}


def test_a_choice_of_text_that_is_a_modules_name_does_not_import_it(read):
    config = read(
        f"from typing import Literal\nimport no_such_module\n{TOP}"
        "class Config(Options, frozen=True):\n    x: Literal['no_such_module', 'other'] = 'other'\n"
    )
    assert default_of_x(config) == "other"


def test_a_recipe_that_imports_torch_is_read_without_it(tmp_path):
    (tmp_path / "r.py").write_text(
        f'"""Mine."""\nimport torch\nimport torch.nn as nn\n{TOP}'
        "class Net(nn.Module):\n    pass\n"
        "class Config(Options, frozen=True):\n    x: int = 3\n    '''Mine.'''\n"
        "def main(cfg):\n    torch.zeros(1)\n"
    )
    program = (
        "import sys; from pathlib import Path; from tune_recipes.recipe_source import read_config_class; "
        "print(read_config_class(Path('r.py'))().x, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "3 False\n"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = (\n", "r.py:1: not valid Python: '(' was never closed"),
        ("x = 1\ny = = 2\n", "r.py:2: not valid Python"),
        ("x = 1\n", "declares no class Config, so it is not a recipe\n  `tune cp full_finetune mine.py`"),
        ("", "declares no class Config"),
        ("from os import *\n", "declares no class Config"),
        ("class Config:\n    pass\n", "Config must be a class derived from tune_recipes.schema.Options"),
        ("Config = 3\n", "Config must be a class derived from"),
        (
            f"{TOP}\nX = 1 / 0\nclass Config(Options):\n    x: int = X\n",
            "r.py:3: its Config cannot be read: Zero",
        ),
        (f"{TOP}\nclass Config(Options):\n    x: int = Y\n", "r.py:4: its Config cannot be read: NameError"),
        (
            f"{TOP}import no_such\nclass Config(Options):\n    x: int = no_such.X\n",
            "r.py:2: its Config cannot be read",
        ),
        (f"{TOP}class Config(Options):\n    x: 'Nope' = 1\n", "its Config cannot be read: NameError"),
        (
            f"{TOP}class Config(Options):\n    x: int = 1\n    y: int\n",
            "its Config cannot be read: TypeError",
        ),
        (f"{TOP}class Config(Options):\n    x: list[int] | set[int] = []\n", "its Config cannot be read"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_with_the_line(read, source, says):
    with pytest.raises(UserError) as error:
        read(source)
    assert says in str(error.value)


def test_a_file_that_is_not_text_is_told(tmp_path):
    for content, says in ((b"x = '\xff'\n", "r.py:1: not UTF-8 text"), (b"x = 1\0\n", "not valid Python")):
        (tmp_path / "r.py").write_bytes(content)
        with pytest.raises(UserError, match=says):
            read_config_class(tmp_path / "r.py")


def test_two_recipes_of_the_same_name_do_not_mix(tmp_path):
    configs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        recipe = tmp_path / name / "r.py"
        recipe.write_text(f"{TOP}class Config(Options):\n    x: str = '{name}'\n    '''It is {name}.'''\n")
        configs.append(read_config_class(recipe))
    assert [default_of_x(config) for config in configs] == ["one", "two"]
    assert [field_docs(config)["x"] for config in configs] == ["It is one.", "It is two."]


def test_a_recipe_that_changed_is_read_anew(read):
    for doc in ("Before.", "After."):
        assert field_docs(read(f"{TOP}class Config(Options):\n    x: int = 1\n    '''{doc}'''\n"))["x"] == doc


def test_a_module_beside_the_recipe_can_be_imported(read, tmp_path):
    (tmp_path / "beside_the_recipe.py").write_text("X = 3\n")
    path = sys.path[:]
    try:
        config = read(f"from beside_the_recipe import X\n{TOP}class Config(Options):\n    x: int = X\n")
    finally:
        sys.modules.pop("beside_the_recipe", None)
    assert default_of_x(config) == 3
    assert sys.path == path


def test_documentation_is_the_string_after_the_field_and_no_other(read):
    config = read(
        f"{TOP}class Config(Options):\n    'The class.'\n    x: int = 1\n    y: int = 2\n"
        "    '''Of y,\n    in two lines.'''\n"
        "    z: int = 3\n    def f(self):\n        'Not of z.'\n"
    )
    assert field_docs(config) == {"y": "Of y,\nin two lines."}


def test_a_class_without_source_has_no_documentation():
    namespace: dict[str, object] = {"__name__": "builtins"}
    exec(f"{TOP}class Config(Options):\n    x: int = 1\n", namespace)
    config = namespace["Config"]
    assert isinstance(config, type)
    assert field_docs(config) == {}
