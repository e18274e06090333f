"""The Python examples in the packages' READMEs run in an empty folder."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"
EXAMPLES = {
    path.parent.name: "\n".join(
        re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    )
    for path in sorted(PACKAGES.glob("*/README.md"))
}


@pytest.mark.parametrize("package", [package for package, code in EXAMPLES.items() if code])
def test_the_example_in_a_readme_runs(package: str, tmp_path: Path, request: pytest.FixtureRequest):
    if ".gguf" in EXAMPLES[package]:
        model: Path = request.getfixturevalue("smollm2_gguf")
        shutil.copy(model, tmp_path / model.name)
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[package]], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
