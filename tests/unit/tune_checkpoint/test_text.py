"""What a terminal shows of a checkpoint: short, and identical layers folded."""

import json
import re
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from small_llama import (
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    VOCAB,
    small_weights,
    write_folder,
)
from tune_checkpoint import diff, inspect, verify
from tune_checkpoint.facts import ModelSizes
from tune_checkpoint.folding import fold
from tune_checkpoint.text import count_text, difference_lines, inspection_lines, size_text, verification_lines

WriteLlama = Callable[..., Any]
TIMES = "\N{MULTIPLICATION SIGN}"

SIZES = ModelSizes(LAYERS, HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HIDDEN // HEADS, VOCAB, 64)


def test_text_of_a_small_model(tmp_path: Path):
    lines = inspection_lines(inspect(write_folder(tmp_path, small_weights(ml_dtypes.bfloat16))))
    assert lines[0] == str(tmp_path)
    assert "\n".join(lines[1:]) == (
        """\
kind          Hugging Face folder (safetensors)
architecture  LlamaForCausalLM
parameters    24.5K (24,544)
weights       49.1 kB in 1 file, 29 tensors
types         BF16 49.1 kB (24.5K)
sizes         layers 3, hidden 32, feed-forward 48, heads 4, key-value heads 2,
              head size 8, vocabulary 40, context 64
tied          lm_head.weight = model.embed_tokens.weight
files         model.safetensors (52.0 kB), config.json, tokenizer.json

  model.embed_tokens.weight                            [40, 32]  BF16
  model.layers.{0..2}.input_layernorm.weight           [32]      BF16  *3
  model.layers.{0..2}.mlp.down_proj.weight             [32, 48]  BF16  *3
  model.layers.{0..2}.mlp.gate_proj.weight             [48, 32]  BF16  *3
  model.layers.{0..2}.mlp.up_proj.weight               [48, 32]  BF16  *3
  model.layers.{0..2}.post_attention_layernorm.weight  [32]      BF16  *3
  model.layers.{0..2}.self_attn.k_proj.weight          [16, 32]  BF16  *3
  model.layers.{0..2}.self_attn.o_proj.weight          [32, 32]  BF16  *3
  model.layers.{0..2}.self_attn.q_proj.weight          [32, 32]  BF16  *3
  model.layers.{0..2}.self_attn.v_proj.weight          [16, 32]  BF16  *3
  model.norm.weight                                    [32]      BF16""".replace("*", TIMES)
    )


def test_tensors_can_be_listed_one_by_one(tmp_path: Path):
    found = inspect(write_folder(tmp_path, small_weights()))
    lines = inspection_lines(found, tensors=True)
    for name, array in small_weights().items():
        assert any(line.split() == [name, *str(list(array.shape)).split(), "F32"] for line in lines)


def test_a_7b_model_takes_a_screen_and_milliseconds(tmp_path: Path):
    hidden, inner, layers, vocab = 4096, 11008, 32, 32000
    layer = {
        "input_layernorm.weight": [hidden],
        "post_attention_layernorm.weight": [hidden],
        **{f"self_attn.{x}_proj.weight": [hidden, hidden] for x in "qkvo"},
        "mlp.gate_proj.weight": [inner, hidden],
        "mlp.up_proj.weight": [inner, hidden],
        "mlp.down_proj.weight": [hidden, inner],
    }
    shapes = {f"model.layers.{n}.{name}": shape for n in range(layers) for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": [vocab, hidden], "lm_head.weight": [vocab, hidden]}
    shapes["model.norm.weight"] = [hidden]
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # no byte of the weights takes room
    started = time.process_time()
    lines = inspection_lines(inspect(tmp_path))
    assert time.process_time() - started < 0.25
    assert "parameters    6.74B (6,738,415,616)" in lines
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 100
    up = ["model.layers.{0..31}.mlp.up_proj.weight", "[11008,", "4096]", "BF16", f"{TIMES}32"]
    assert up in [line.split() for line in lines]


@pytest.mark.parametrize(
    ("number", "size", "count"),
    [
        (0, "0 bytes", "0"),
        (999, "999 bytes", "999"),
        (1000, "1.0 kB", "1.00K"),
        (999_949, "999.9 kB", "1.00M"),
        (134_515_008, "134.5 MB", "135M"),
        (1_234_567_890, "1.2 GB", "1.23B"),
        (999_960_000, "1.0 GB", "1.00B"),
        (2 * 10**15, "2000.0 TB", "2,000.00T"),
    ],
)
def test_numbers_are_short(number: int, size: str, count: str):
    assert (size_text(number), count_text(number)) == (size, count)


def unfolded(name: str) -> list[str]:
    """Every name that a folded one stands for."""
    text = re.split(r"(\{[^}]*\})", name)
    choices: list[list[str]] = []
    for piece in text:
        if not piece.startswith("{"):
            choices.append([piece])
            continue
        numbers: list[str] = []
        for spelled in piece[1:-1].split(","):
            first, _, last = spelled.partition("..")
            numbers += [str(n) for n in range(int(first), int(last or first) + 1)]
        choices.append(numbers)
    return ["".join(choice) for choice in product(*choices)]


@given(
    st.sets(st.integers(0, 30), min_size=1, max_size=6),
    st.sets(st.integers(0, 9), min_size=1, max_size=4),
    st.sampled_from(["mlp", "attn"]),
)
def test_folded_names_stand_for_all_that_they_were_made_of(layers: set[int], experts: set[int], kind: str):
    names = [f"model.{n}.{kind}.{m}.w" for n in layers for m in experts]
    (group,) = fold((name, None) for name in names)
    assert group.count == len(names)
    assert group.members == tuple(range(len(names)))
    if ",..," not in group.name:  # the middle of many ranges is left out
        assert sorted(unfolded(group.name)) == sorted(names)


def test_only_what_is_alike_is_folded():
    things = [("h.0.w", "F32"), ("h.1.w", "F16"), ("h.2.w", "F32"), ("h.3.b", "F32"), ("w", "F32")]
    assert [(group.name, group.count) for group in fold(things)] == [
        ("h.{0,2}.w", 2),
        ("h.1.w", 1),
        ("h.3.b", 1),
        ("w", 1),
    ]


def test_a_fold_with_holes_says_so():
    (group,) = fold((f"h.{n}.e.{m}.w", None) for n, m in [(0, 0), (0, 1), (1, 0)])
    assert group.name == "h.{0..1}.e.{0..1}.w (not all)"


@given(st.lists(st.lists(st.sampled_from(["{}", "a", "", "0", "1", "12"]), min_size=1).map(".".join)))
@example(["a.{}.0", "a.{}.1"])
@example(["a.{}", "a.0", "a.1"])
def test_any_names_are_folded_each_once(names: list[str]):
    folded = fold((name, None) for name in names)
    assert sorted(member for group in folded for member in group.members) == list(range(len(names)))
    assert all(group.name == names[group.members[0]] for group in folded if group.count == 1)


def test_braces_in_a_name_are_no_number():
    assert [group.name for group in fold((name, None) for name in ("a.{}", "a.0", "a.1"))] == [
        "a.{}",
        "a.{0..1}",
    ]


def test_what_a_terminal_would_obey_is_spelled_out(tmp_path: Path):
    name = "\x1b[2J.weight\n\u202e"
    for file, value in (("a", 0.0), ("b", np.nan)):
        save_file({name: np.full(3, value)}, tmp_path / f"{file}.safetensors")
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    texts = [
        inspection_lines(inspect(a)),
        inspection_lines(inspect(a), tensors=True),
        difference_lines(diff(a, b)),
        verification_lines(verify(b)),
    ]
    for lines in texts:
        assert all(line.isprintable() for line in lines)
        assert any(r"\x1b[2J.weight\n\u202e" in line for line in lines)
