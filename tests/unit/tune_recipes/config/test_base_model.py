"""What a folder says of the model in it: where it came from, under which licence."""

import json
from pathlib import Path

import pytest

from tune_recipes import runs
from tune_recipes.base_model import BaseModel, cached_repository, read_base_model
from tune_recipes.catalog import RECIPES

COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
CARD = "---\nlicense: other\nlicense_name: acme\nlicense_link: LICENSE\nlanguage:\n- en\n- fr\n---\n# Model\n"


def folder(path: Path, *, record: object = None, card: str | bytes | None = None) -> str:
    path.mkdir(parents=True)
    if record is not None:
        (path / ".tune-download.json").write_text(json.dumps(record))
    if card is not None:
        (path / "README.md").write_bytes(card if isinstance(card, bytes) else card.encode())
    return str(path)


def test_a_downloaded_folder_tells_repository_commit_and_licence(tmp_path):
    path = folder(tmp_path / "m", record={"repository": "acme/m", "commit": COMMIT, "files": {}}, card=CARD)
    base = read_base_model(path)
    assert base == BaseModel(
        path=path,
        repository="acme/m",
        commit=COMMIT,
        license="other",
        license_name="acme",
        license_link="LICENSE",
        language=("en", "fr"),
    )
    assert base.name == "acme/m"


@pytest.mark.parametrize("repository", ["acme/model-7B", "gpt2"])
def test_a_folder_in_the_hubs_cache_tells_repository_and_commit(tmp_path, repository):
    path = folder(tmp_path / f"models--{repository.replace('/', '--')}" / "snapshots" / COMMIT)
    assert (read_base_model(path).repository, read_base_model(path).commit) == (repository, COMMIT)
    assert cached_repository(Path(path), "datasets") is None


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# no header",
        "---\n---\n",
        "---\n- a list\n---\n",
        "---\nlicense: [unclosed\n---\n",
        "---\nlicense: 3\nlanguage: 4\n---\n",
        "---\nlicense:\n- mit\n- apache-2.0\n---\n",
        "---\nlicense: !!python/object/apply:os.getcwd []\n---\n",
        b"---\nlicense: \xff\x00\n---\n",
        "---\n" + "[" * 500 + "\n---\n",
    ],
)
@pytest.mark.parametrize("record", [None, [], {"repository": 3}, {"repository": ""}, "text"])
def test_what_cannot_be_read_is_not_known(tmp_path, card, record):
    path = folder(tmp_path / "m", record=record, card=card)
    assert read_base_model(path) == BaseModel(path=path)


def test_a_folder_that_is_not_there_is_not_known():
    for path in ("gone", "builtin:../x", "builtin:demo", "a\0b"):
        assert read_base_model(path) == BaseModel(path=path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/me/models/llama/", "llama"),
        ("models/llama", "llama"),
        ("runs/20260102-030405-demo-1a2b/final", "20260102-030405-demo-1a2b"),
        ("final", "final"),
        ("builtin:demo", "builtin:demo"),
        (".", "."),
    ],
)
def test_a_model_is_called_by_its_folder_without_the_way_there(path, name):
    assert BaseModel(path=path).name == name


def test_one_licence_or_language_may_stand_in_a_list_or_alone(tmp_path):
    base = read_base_model(folder(tmp_path / "m", card="---\nlicense:\n- mit\nlanguage: en\n---\r\n"))
    assert (base.license, base.language) == ("mit", ("en",))


def test_a_run_notes_its_base_when_it_begins_and_the_licence_goes_on_to_the_next_run(load, tmp_path):
    path = folder(tmp_path / "base", record={"repository": "acme/m", "commit": COMMIT}, card=CARD)
    run = runs.create_run(load(f"model={path}"), RECIPES / "full_finetune.py", [])
    (Path(path) / "README.md").unlink()
    noted = runs.read_info(run).base_model
    assert noted is not None
    assert (noted.repository, noted.license, noted.language) == ("acme/m", "other", ("en", "fr"))
    next_base = read_base_model(folder(run / "final"))
    assert (next_base.repository, next_base.license_name, next_base.name) == (None, "acme", run.name)


def test_the_run_json_of_an_older_version_is_read(load):
    run = runs.create_run(load(), RECIPES / "full_finetune.py", [])
    info = json.loads((run / "run.json").read_text())
    del info["base_model"]
    (run / "run.json").write_text(json.dumps(info))
    assert runs.read_info(run).base_model is None
