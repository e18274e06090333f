"""Damaged vocabulary files: what is wrong is said, and nothing else ever comes out of the readers."""

import base64
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tune_checkpoint import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptFileError,
    UnsupportedCheckpointError,
)
from tune_checkpoint.tokenizers.files import Kind, detect_tokenizer, tokenizer_files_from

PIECES = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("\u2581", 1), ("a", 1), ("b", 1), ("ab", 1), ("<tool>", 4)]
SENTENCEPIECE = b""
for score, (text, kind) in enumerate(PIECES):
    body = b"\x0a" + bytes([len(text.encode())]) + text.encode()
    body += b"\x15" + struct.pack("<f", -score) + b"\x18" + bytes([kind])
    SENTENCEPIECE += b"\x0a" + bytes([len(body)]) + body
SENTENCEPIECE += b"\x12\x02\x18\x02" + b"\x1a\x04\x18\x01\x20\x00"
"""trainer_spec: model_type BPE; normalizer_spec: a prefix, and no spaces removed."""

TOKENS = [*(bytes([byte]) for byte in range(256)), b"ab", b"abc", b"the"]
TIKTOKEN = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(TOKENS))
TEKKEN = json.dumps(
    {
        "config": {"pattern": ".", "default_vocab_size": 260, "default_num_special_tokens": 2},
        "special_tokens": [{"rank": 0, "token_str": "<s>"}, {"rank": 1, "token_str": "</s>"}],
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode()}
            for rank, token in enumerate(TOKENS)
        ],
    }
).encode()
FILES: dict[Kind, bytes] = {"sentencepiece": SENTENCEPIECE, "tiktoken": TIKTOKEN, "tekken": TEKKEN}


def convert(path: Path, content: bytes) -> None:
    """Read it, and let the tokenizers library read what was made of it."""
    path.write_bytes(content)
    made = tokenizer_files_from(path)
    if b'"pattern": "."' not in content and content.startswith(b"{"):
        return  # a regular expression is only judged by who uses it
    ours = Tokenizer.from_str(made.files[0].content.decode())
    assert ours.get_vocab_size() == made.vocab_size
    ours.encode(" ab <tool>the")


@pytest.mark.parametrize("kind", FILES)
def test_kind_is_told_by_contents(tmp_path: Path, kind: Kind):
    convert(tmp_path / "any name", FILES[kind])
    assert detect_tokenizer(tmp_path / "any name") == kind


@pytest.mark.parametrize("kind", FILES)
def test_no_tokenizer_library_and_no_numpy_is_loaded(tmp_path: Path, kind: Kind):
    (tmp_path / "m").write_bytes(FILES[kind])
    code = """
import sys, pathlib
from tune_checkpoint.tokenizers.files import tokenizer_files_from
tokenizer_files_from(pathlib.Path(sys.argv[1]))
print(*sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "m")]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    heavy = {"numpy", "gguf", "torch", "transformers", "tokenizers", "sentencepiece", "tiktoken"}
    assert heavy.isdisjoint(loaded)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\x0a",
        b"\x0a\xff",
        b"{}",
        b"[1]",
        b'{"vocab": {}, "model": 1}',
        b"GGUF",
        b"IQ==",
        b"the 1 2\n",
    ],
)
def test_other_files_are_of_no_kind(tmp_path: Path, content: bytes):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    assert detect_tokenizer(path) is None
    with pytest.raises(UnsupportedCheckpointError, match="neither a SentencePiece model nor"):
        tokenizer_files_from(path)


def test_what_is_not_there_is_not_found(tmp_path: Path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(CheckpointNotFoundError, match="cannot be read"):
            detect_tokenizer(path)


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (b"\x12\x05\x18\x02", "field 2 takes 5 bytes, but its message ends at byte"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "field 2 takes 9223372036854775807 bytes"),
        (b"\x12\x02\x0a\x05", "field 1 takes 5 bytes, but its message ends at byte"),
        (b"\x18" + b"\x80" * 40 + b"\x00", "a number does not end"),
        (b"\x18\x80", "a number does not end"),
        (b"\x12\x02\x18\x80", "a number does not end"),
        (b"\x00\x01", "tag 0 "),
        (b"\x13\x01", "tag 19 "),
        (b"\x12\x05\x1d\x00\x00\x00\x00", "model_type is stored as 32 bits, not a whole number"),
        (b"\x0a\x03\x0a\x01\xff", "piece is not UTF-8"),
        (b"\x0a\x02\x10\x01", "score is stored as a whole number, not 32 bits"),
        (b"\x10\x01", "trainer_spec is stored as a whole number, not bytes"),
        (b"\x15\x01\x00", "field 2 takes 4 bytes"),
        (b"\x11\x01\x00", "field 2 takes 8 bytes"),
    ],
)
def test_broken_fields_are_refused_with_their_place(tmp_path: Path, field: bytes, reason: str):
    with pytest.raises(CorruptFileError, match=reason) as refusal:
        convert(tmp_path / "m", SENTENCEPIECE + field)
    place = int(str(refusal.value).split("at byte ")[1].split(":")[0])
    assert len(SENTENCEPIECE) <= place <= len(SENTENCEPIECE + field)


def test_unknown_fields_are_passed_over(tmp_path: Path):
    convert(
        tmp_path / "m", SENTENCEPIECE + b"\x22\x02xx\x29" + b"\x01" * 8 + b"\x35" + b"\x01" * 4 + b"\x38\x01"
    )


@pytest.mark.parametrize("kind", FILES)
def test_truncated_files_are_refused_or_lack_what_was_cut(tmp_path: Path, kind: Kind):
    content = FILES[kind]
    for size in range(0, len(content), max(1, len(content) // 150)):
        try:
            convert(tmp_path / "m", content[:size])
        except CheckpointError:
            continue
        assert kind != "tekken", "a JSON object has an end"


# Bytes that decide something, and any others.
bytes_that_matter = st.one_of(
    st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, *b'\n "{}[],=A09']), st.integers(0, 255)
)
changes = st.lists(st.tuples(st.integers(0, 1 << 16), bytes_that_matter), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", FILES)
def test_changed_bytes_give_a_tokenizer_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, kind: Kind
):
    path = tmp_path_factory.mktemp("changed") / "m"

    @given(changes=changes)
    @example(changes=[(0, 0)])
    def check(changes: list[tuple[int, int]]):
        content = bytearray(FILES[kind])
        for place, value in changes:
            content[place % len(content)] = value
        try:
            convert(path, bytes(content))
        except CheckpointError as error:
            assert str(error).startswith(str(path))

    check()


@given(
    content=st.binary(max_size=60),
    head=st.sampled_from([b"", b"\x0a\x05\x0a\x03abc", b'{"vocab":', b"IQ== 0\n"]),
)
def test_any_bytes_give_a_named_error(tmp_path_factory: pytest.TempPathFactory, content: bytes, head: bytes):
    with pytest.raises(CheckpointError):
        convert(tmp_path_factory.getbasetemp() / "any", head + content)


def test_deep_nesting_is_refused(tmp_path: Path):
    content = b'{"names": ["vocab", "default_num_special_tokens"], "other": ' + b"[" * 100_000
    with pytest.raises(CorruptFileError, match=r"not a tekken\.json that can be read"):
        convert(tmp_path / "m", content)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("sentencepiece", "no SentencePiece model has"),
        ("tiktoken", "no table of ranks has"),
        ("tekken", "neither"),
    ],
)
def test_files_of_absurd_size_are_not_read(tmp_path: Path, kind: Kind, reason: str):
    path = tmp_path / "m"
    path.write_bytes(FILES[kind])
    with path.open("r+b") as file:
        file.truncate(1 << 28)
    with pytest.raises(CheckpointError, match=reason):
        tokenizer_files_from(path)
