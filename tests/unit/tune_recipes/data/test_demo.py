import json
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tune_recipes.chat import load_chat_template
from tune_recipes.data.loader import build_loader
from tune_recipes.schema import Data
from tune_recipes.tokenizer import Tokenizer

make_demo = runpy.run_path(str(Path(__file__).with_name("make_demo.py")))
TOKENIZER = Tokenizer(make_demo["DEMO"])


def conversations(demo, name):
    rows = [json.loads(line)["messages"] for line in (demo / name).read_text(encoding="utf-8").splitlines()]
    return {question["content"]: answer["content"] for question, answer in rows}


def test_committed_files_are_what_the_script_makes(demo, tmp_path):
    make_demo["main"](tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in demo.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (demo / path.name).read_bytes(), path.name


def test_bundled_files_stay_small(demo):
    assert sum(path.stat().st_size for path in demo.iterdir()) < 300_000


def test_facts_are_asked_in_three_ways(demo):
    capitals, currencies = conversations(demo, "capitals.jsonl"), conversations(demo, "currencies.jsonl")
    assert (len(capitals), len(currencies)) == (3 * 60, 3 * 20)
    assert capitals["What is the capital of France?"] == "Paris"
    assert currencies["What is the currency of Japan?"] == "yen"


def test_folder_loads_in_transformers_as_in_ours(demo):
    reference = AutoTokenizer.from_pretrained(demo)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = load_chat_template(TOKENIZER).render(messages, add_generation_prompt=True)
    assert text == "<|user|>What is the capital of France?<|end|><|assistant|>"
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert ids == reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert (TOKENIZER.eos_id, TOKENIZER.pad_id) == (reference.eos_token_id, reference.pad_token_id)
    assert len(reference) == TOKENIZER.vocab_size == 768


@given(st.text())
def test_any_text_survives_the_round_trip(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text), skip_special_tokens=False) == text


@pytest.mark.parametrize("name", ["capitals.jsonl", "currencies.jsonl"])
def test_loader_learns_the_answers_and_their_end(demo, name):
    data = Data(path=f"builtin:demo/{name}", format="chat", shuffle=False)
    loader = build_loader(data, TOKENIZER, batch_size=6, seed=0)
    answers = []
    for _ in range(len(loader)):
        (batch,) = next(loader)
        for targets in batch.targets:
            answers.append(TOKENIZER.decode(targets[targets >= 0].tolist(), skip_special_tokens=False))
    assert answers == [f"{answer}<|end|>" for answer in conversations(demo, name).values()]
