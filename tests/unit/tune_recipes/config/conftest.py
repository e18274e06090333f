"""What the tests of configuration share: the built-in recipes' Configs, and a way to load one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import pytest

from tune_recipes.catalog import RECIPES
from tune_recipes.config import Loaded, load_config
from tune_recipes.errors import UserError
from tune_recipes.recipe_source import read_config_class

KNOWN = ("--config", "--resume", "--debug", "--help")


class Configs(NamedTuple):
    """The Config classes of the built-in recipes."""

    full: type[msgspec.Struct]
    lora: type[msgspec.Struct]
    generate: type[msgspec.Struct]


@pytest.fixture(scope="session")
def configs() -> Configs:
    names = ("full_finetune", "lora_finetune", "generate")
    return Configs(*(read_config_class(RECIPES / f"{name}.py") for name in names))


class Load(Protocol):
    def __call__(self, *words: str, yaml: str | bytes | None = None, recipe: str = "full") -> Loaded: ...


@pytest.fixture
def load(configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a Config from words of a command line, and from the text of a YAML file called c.yaml.

    What must be given is given, unless the YAML does it.
    """
    monkeypatch.chdir(tmp_path)
    given = {"full": ["model=m", "data.path=d"], "lora": ["model=m", "data.path=d"], "generate": ["model=m"]}

    def load_(*words: str, yaml: str | bytes | None = None, recipe: str = "full") -> Loaded:
        file = None
        if yaml is not None:
            file = Path("c.yaml")
            file.write_bytes(yaml if isinstance(yaml, bytes) else yaml.encode())
        first = given[recipe] if yaml is None else []
        return load_config(getattr(configs, recipe), file, [*first, *words], known=KNOWN)

    return load_


@pytest.fixture
def refusal(load: Load) -> Callable[..., str]:
    """Return the message with which a Config is refused."""

    def refusal_(*words: str, **given: Any) -> str:
        with pytest.raises(UserError) as error:
            load(*words, **given)
        return str(error.value)

    return refusal_
