"""Each package declares what it imports, and imports what it declares."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"
DISTRIBUTIONS = {"huggingface_hub": "huggingface_hub", "ml_dtypes": "ml-dtypes", "yaml": "pyyaml"}


def imported(package: Path) -> set[str]:
    found: set[str] = set()
    for path in (package / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    tops = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names)
    tops.discard(package.name.replace("-", "_"))
    return {DISTRIBUTIONS.get(top, top.replace("_", "-")) for top in tops}


@pytest.mark.parametrize("package", sorted(PACKAGES.iterdir()), ids=lambda path: path.name)
def test_a_package_declares_exactly_what_it_imports(package: Path):
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project.get("dependencies", [])) == imported(package)
