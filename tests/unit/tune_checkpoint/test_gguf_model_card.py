"""The name and licence of a model, which come along from GGUF to README.md and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from gguf.metadata import Metadata as GgufMetadata
from hypothesis import example, given
from hypothesis import strategies as st

from gguf_samples import fields, read_file, write_hf
from tune_checkpoint import convert
from tune_checkpoint.gguf.metadata import Metadata
from tune_checkpoint.gguf.model_card import CARD_KEYS, card_files, card_values
from tune_checkpoint.plan import SideFile

WriteLlama = Callable[..., Any]

STATED = {
    "general.name": 'Small "LM": 135M # 1',
    "general.license": "other",
    "general.license.name": "c'est la vie",
    "general.license.link": "https://example.org/LICENSE",
}


def test_name_and_licence_survive_the_way_to_hugging_face_and_back(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama(metadata=STATED)
    convert(file.path, tmp_path / "copy", to="gguf")
    convert(file.path, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "back", to="gguf")
    for folder in ("copy", "back"):
        found = fields(read_file(tmp_path / folder))
        assert {key: found.get(key) for key in STATED} == STATED
    # The gguf package reads the same from the folder, with a YAML library.
    read = GgufMetadata.load_model_card(tmp_path / "hf")
    assert list(read.values()) == list(STATED.values())


def test_folder_gets_no_card_where_the_file_says_nothing(write_llama: WriteLlama, tmp_path: Path):
    convert(write_llama().path, tmp_path / "hf")
    assert not (tmp_path / "hf" / "README.md").exists()


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (
            "---\nlicense: apache-2.0 # free\ntags:\n- a\n---\nlicense: mit\n",
            {"general.license": "apache-2.0"},
        ),
        ("---\r\nlicense: 'it''s'\r\nmodel_name: ~\r\n---\r\n", {"general.license": "it's"}),
        ("---\nlicense: [mit, bsd]\nmodel_name: >\n  long\nlicense_link: |\n---\n", {}),
        ('---\nlicense: "open\nmodel_name: "x" y\nlicense_link:\n---\n', {}),
        ('---\nlicense: "\\ud800"\nmodel_name: a\n---\n', {"general.name": "a"}),
        ("# A model\nlicense: mit\n", {}),
        ("", {}),
    ],
)
def test_single_values_at_the_head_of_a_card_are_read(card: str, expected: dict[str, str]):
    assert card_values([SideFile("README.md", card.encode())]) == expected


def test_name_of_the_folder_is_the_models_where_no_card_names_it(write_llama: WriteLlama, tmp_path: Path):
    source = write_hf(tmp_path / "my-model", write_llama().tensors)
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    convert(source, tmp_path / "out", to="gguf")
    found = fields(read_file(tmp_path / "out"))
    assert (found["general.name"], found["general.license"]) == ("my-model", "mit")


@given(st.dictionaries(st.sampled_from(list(STATED)), st.text(min_size=1)))
@example({"general.name": "a\x7f\x85\x9f\u2028\u2029\ufeff\ufffe\uffff\U0001f600 ---"})
def test_any_text_comes_back_from_the_card(stated: dict[str, str]):
    files = card_files(Metadata(Path("model.gguf"), stated))
    assert card_values(files) == stated
    head = files[0].content.decode().split("---\n")[1] if files else "{}"
    assert yaml.safe_load(head) == {CARD_KEYS[key]: value for key, value in stated.items()}


@given(st.binary() | st.text().map(lambda text: f"---\nlicense: {text}\n---".encode()))
def test_any_card_is_read_or_passed_over(content: bytes):
    assert all(isinstance(value, str) for value in card_values([SideFile("README.md", content)]).values())
