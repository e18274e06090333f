"""A Hub of one's own, and an environment that leads to it alone."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import huggingface_hub
import pytest
from huggingface_hub import constants

from hub.server import Hub


class SetEnvironment(Protocol):
    """Changes the environment; None removes a name."""

    def __call__(self, **changes: str | None) -> None: ...


@pytest.fixture(scope="session")
def running_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Start a Hub once for all tests."""
    huggingface_hub.close_session()  # which may know of a proxy
    hub = Hub(tmp_path_factory.mktemp("hub") / "contents").start()
    yield hub
    huggingface_hub.close_session()
    hub.stop()


@pytest.fixture
def set_environment(monkeypatch: pytest.MonkeyPatch) -> SetEnvironment:
    """Change the environment for tune_hub and, within this process, for huggingface_hub too."""

    def change(**changes: str | None) -> None:
        for name, value in changes.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        _read_constants_again(monkeypatch)

    return change


@pytest.fixture
def hub(
    running_hub: Hub, set_environment: SetEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hub]:
    """An empty Hub; this process talks to it without a token, with an empty cache."""
    running_hub.reset()
    wanted = running_hub.environment(tmp_path_factory.mktemp("hf_home"))
    gone = dict.fromkeys(name for name in os.environ if name not in wanted)
    set_environment(**gone, **{name: value for name, value in wanted.items() if name.startswith("HF_")})
    yield running_hub
    running_hub.release()
    assert not running_hub.errors, running_hub.errors[0]


def _read_constants_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub's constants, which it reads once, follow the environment for one test."""
    assert constants.__file__
    spec = importlib.util.spec_from_file_location("huggingface_hub.constants", Path(constants.__file__))
    assert spec and spec.loader
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    for name, value in vars(fresh).items():
        if name.isupper() and getattr(constants, name, None) != value:
            monkeypatch.setattr(constants, name, value)
