"""Which files go along with the weights, which are left behind, and which are replaced with them."""

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from small_llama import CONFIG, small_weights, write_folder
from tokenizer_samples import TEXTS, write_sentencepiece
from tune_checkpoint import OutputExistsError, convert
from tune_checkpoint.companions import find_companions
from tune_checkpoint.planning import MAX_SIDE_BYTES

CODE = {
    "modeling_own.py": "from .configuration_own import OwnConfig\nfrom .layers_own import Layer\n",
    "configuration_own.py": "class OwnConfig: ...\n",
    "layers_own.py": "    from . import kernels_own\n",
    "kernels_own.py": "",
}
KNOWN = (
    "LICENSE", "MODEL_CARD.md", "README.md", "USE_POLICY.md", "additional_chat_templates/tools.jinja",
    "bpe.codes", "chat_template.jinja", "merges.txt", "preprocessor_config.json", "qwen.tiktoken",
    "source.spm", "special_tokens_map.json", "target.spm", "tokenizer.model.v3",
)  # fmt: skip
FOREIGN = ("client_secret.json", "notes.txt", "main.py", "diary.md", "model.model")


def write_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model, with files that belong to it, code of its own, and files that do not."""
    auto_map = {"AutoModel": "modeling_own.OwnModel", "AutoConfig": "who/other--configuration_other.Other"}
    path = write_folder(tmp_path / "model", small_weights(), CONFIG | {"auto_map": auto_map})
    write_files(path, *KNOWN, *FOREIGN)
    for name, text in CODE.items():
        (path / name).write_text(text)
    return path


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("src", ["model", "model/model.safetensors"])
def test_only_what_belongs_to_a_model_goes_along(folder: Path, tmp_path: Path, src: str):
    convert(tmp_path / src, tmp_path / "out")
    files = {"config.json", "tokenizer.json", "model.safetensors"}
    assert names(tmp_path / "out") == {*files, *KNOWN, *CODE}
    assert (tmp_path / "out" / KNOWN[4]).read_text() == KNOWN[4]


def test_what_a_folder_has_besides_is_named(folder: Path, tmp_path: Path):
    (warning,) = convert(folder, tmp_path / "out").warnings
    assert warning == (
        "client_secret.json, diary.md, main.py, model.model, notes.txt: left behind: not known to belong to "
        "a model; copy what is wanted"
    )
    assert convert(folder / "model.safetensors", tmp_path / "other").warnings == ()


def test_too_large_a_companion_is_named(folder: Path, tmp_path: Path):
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(MAX_SIDE_BYTES + 1)
    result = convert(folder / "model.safetensors", tmp_path / "out")
    assert "tokenizer.json" not in result.files
    (warning,) = result.warnings
    assert warning.startswith("tokenizer.json: not copied: it has 100000001 bytes")


def test_companions_take_no_memory_for_their_bytes(folder: Path, tmp_path: Path):
    large = ("README.md", "merges.txt", "qwen.tiktoken", "tokenizer.model.v3")
    for name in large:
        os.truncate(folder / name, 20_000_000)
    tracemalloc.start()
    result = convert(folder, tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {*large} <= {*result.files}
    assert all((tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes() for name in large)
    assert peak < 30_000_000


@pytest.mark.parametrize(
    "name", ["qwen.tiktoken", "source.spm", "bpe.codes", "tokenizer.model.v3", "vocab.txt"]
)
def test_any_vocabulary_is_a_tokenizer(tmp_path: Path, name: str):
    path = write_folder(tmp_path / "model", small_weights())
    (path / "tokenizer.json").rename(path / name)
    assert not any("no tokenizer" in warning for warning in convert(path, tmp_path / "out").warnings)


def test_force_replaces_all_that_was_written(folder: Path, tmp_path: Path):
    for _ in range(2):
        convert(folder, tmp_path / "out", force=True)


@pytest.mark.parametrize("name", ["records.json", "own.py", "additional_chat_templates/notes.txt"])
def test_force_spares_what_no_conversion_writes(folder: Path, tmp_path: Path, name: str):
    convert(folder, tmp_path / "out")
    write_files(tmp_path / "out", name)
    with pytest.raises(OutputExistsError, match=f"{name} would be lost"):
        convert(folder, tmp_path / "out", force=True)
    assert (tmp_path / "out" / name).read_text() == name


@pytest.mark.parametrize("config", ["{", "[]", json.dumps({"auto_map": [["a.B", None], 3, "../x.Y"]})])
def test_code_that_a_strange_configuration_names_is_no_matter(folder: Path, tmp_path: Path, config: str):
    (folder / "tokenizer_config.json").write_text(config)
    result = convert(folder, tmp_path / "out")
    assert set(CODE) <= set(result.files)


def with_sentencepiece(folder: Path, **files: object) -> Path:
    """A model whose tokenizer is a SentencePiece model, with JSON files beside it."""
    config = CONFIG | {"vocab_size": 400, "bos_token_id": 1, "eos_token_id": [2, 3]}
    write_folder(folder, small_weights(), config)
    (folder / "tokenizer.json").unlink()
    write_sentencepiece(folder / "tokenizer.model", 400)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize("described", [None, {"tokenizer_class": "LlamaTokenizer", "chat_template": "own"}])
def test_a_tokenizer_is_made_of_its_sentencepiece_model(tmp_path: Path, described: object):
    folder = with_sentencepiece(
        tmp_path / "model", **({} if described is None else {"tokenizer_config": described})
    )
    warnings = convert(folder, tmp_path / "out").warnings
    assert [warning.partition(":")[0] for warning in warnings] == (
        [] if described else ["chat_template.jinja"]
    )
    reference = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ours = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS:
        if "<" not in text:
            assert ours.encode(text, add_special_tokens=False).ids == reference.encode(text)
            assert loaded.encode(text, add_special_tokens=False) == reference.encode(text)
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert described is None or written == described


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {"<more>": 400}},
        {"tokenizer_config": {"added_tokens_decoder": {"400": {"content": "<more>"}}}},
    ],
)
def test_no_tokenizer_is_made_where_tokens_were_added(tmp_path: Path, files: dict[str, object]):
    result = convert(with_sentencepiece(tmp_path / "model", **files), tmp_path / "out")
    assert "tokenizer.json" not in result.files
    (warning,) = result.warnings
    assert "none was made: tokens were added to those of tokenizer.model" in warning


def test_a_vocabulary_that_nothing_reads_is_told(tmp_path: Path):
    folder = with_sentencepiece(tmp_path / "model")
    (folder / "tokenizer.model").write_text("what is this")
    result = convert(folder, tmp_path / "out")
    assert "tokenizer.model" in result.files
    (warning,) = result.warnings
    assert warning.startswith(f"tokenizer.json: none in {folder}, and none can be made: ")


def test_generation_defaults_are_made_of_the_token_ids(tmp_path: Path):
    folder = with_sentencepiece(tmp_path / "model")
    convert(folder, tmp_path / "out")
    made = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert made == {"bos_token_id": 1, "eos_token_id": [2, 3]}
    (folder / "generation_config.json").write_text('{"temperature": 2}')
    convert(folder, tmp_path / "other")
    assert json.loads((tmp_path / "other" / "generation_config.json").read_text()) == {"temperature": 2}


def test_code_of_a_processor_belongs_to_the_model(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text('{"auto_map": {"AutoProcessor": "processing_x.X"}}')
    (tmp_path / "processing_x.py").write_text("")
    assert tmp_path / "processing_x.py" in find_companions(tmp_path)
