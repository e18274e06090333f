"""Fuzzes the readers of vocabularies, and of the few lines of YAML beside a LitGPT checkpoint."""

import base64
import json
import struct
from pathlib import Path

from fuzz.fuzzing import Target, fuzz_target

from tune_checkpoint.litgpt.flat_yaml import read_flat_yaml
from tune_checkpoint.tokenizers.files import tokenizer_files_from

PIECES = (("<unk>", 2), ("<s>", 3), ("</s>", 3), ("\u2581", 1), ("a", 1), ("b", 1), ("ab", 1))
RANKS = [*(bytes([byte]) for byte in range(256)), b"ab", b"abc", b"the"]


def _read(path: Path) -> None:
    made = tokenizer_files_from(path)
    vocab = json.loads(made.files[0].content)["model"]["vocab"]
    assert len(vocab) == made.vocab_size
    assert all(0 <= index < made.vocab_size for index in (*made.ids.values(), *made.end_ids))


def _sentencepiece() -> list[bytes]:
    model = b""
    for score, (text, kind) in enumerate(PIECES):
        body = b"\x0a" + bytes([len(text.encode())]) + text.encode()
        body += b"\x15" + struct.pack("<f", -score) + b"\x18" + bytes([kind])
        model += b"\x0a" + bytes([len(body)]) + body
    return [model + b"\x12\x02\x18\x02" + b"\x1a\x04\x18\x01\x20\x00"]


def _tiktoken() -> list[bytes]:
    return [b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(RANKS))]


def _tekken() -> list[bytes]:
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(t).decode()} for rank, t in enumerate(RANKS)]
    special = [{"rank": 0, "token_str": "<s>"}, {"rank": 1, "token_str": "</s>"}]
    config = {"pattern": ".", "default_vocab_size": 260, "default_num_special_tokens": 2}
    return [json.dumps({"config": config, "special_tokens": special, "vocab": vocab}).encode()]


def _yaml() -> list[bytes]:
    return [b'name: x\nn_layer: 2\nrope_base: 1e4\nbias: false\nhf_config:\n  name: "y"\nnull_one: null\n']


TARGETS = (
    Target("SentencePiece models", _read, _sentencepiece, (b"\xff\xff\xff\xff\x0f", b"\x0a", b"\x18\x04")),
    Target("tiktoken tables", _read, _tiktoken, (b"\n", b" ", b"==", b"-1", b"256", b"99999999999999999999")),
    Target(
        "tekken tables", _read, _tekken, (b"null", b"-1", b"1e9", b'"rank"', b'"token_bytes"', b"[", b"{")
    ),
    Target("LitGPT's YAML", read_flat_yaml, _yaml, (b": ", b"\n  ", b"- ", b"&a", b"*a", b"!!", b"'", b'"')),
)


def run(seconds: float, seed: int | None = None) -> int:
    """Fuzz each for its share of the time; returns how many inputs were tried."""
    return sum(fuzz_target(target, seconds / len(TARGETS), seed=seed) for target in TARGETS)
