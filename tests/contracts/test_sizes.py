"""No file grows past what one can hold in mind."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for top in ("packages", "tests", "benchmarks") for path in sorted((ROOT / top).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_500_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
