import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_recipes.data.records import parse_records, read_records, read_with_fingerprint
from tune_recipes.errors import UserError

ROWS = [{"a": "ü\u2028x", "n": 1}, {"a": "", "b": None}]


def as_jsonl(rows, end="\n"):
    return end.join(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        as_jsonl(ROWS),
        as_jsonl(ROWS, end="\r\n") + "\r\n\r\n",
        "\ufeff" + as_jsonl(ROWS),
    ],
)
def test_json_and_jsonl_give_the_same_records_whatever_the_suffix(tmp_path, text):
    for name in ("data.json", "data.jsonl", "data"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        assert [record.fields for record in read_records(path)] == ROWS


def test_a_record_knows_its_line_or_number(tmp_path):
    path = tmp_path / "d"
    path.write_text("\n" + as_jsonl(ROWS, end="\n\n"))
    assert [record.where for record in read_records(path)] == [f"{path}:2", f"{path}:4"]
    path.write_text(json.dumps(ROWS))
    assert [record.where for record in read_records(path)] == [f"{path}: record 1", f"{path}: record 2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"d\.jsonl: is empty"),
        (b" \n\n", r"d\.jsonl: is empty"),
        (b"[]", r"d\.jsonl: holds no records"),
        (b'{"a": 1}\n{"a": 2\n', r"d\.jsonl:2:8: .*one JSON object on each line"),
        (b'{"a": 1}\n\n{"a": 1}}', r"d\.jsonl:3:9: Extra data"),
        (b'[{"a": 1},\n {"a" 2}]', r"d\.jsonl:2:7: .*the array is malformed"),
        (b'{"a": 1}\n"text"\n', r"d\.jsonl:2: is a string; expected an object"),
        (b"[{}, [1]]", r"d\.jsonl: record 2: is an array"),
        (b'{"a": 1}\n{"a": "\xff"}', r"d\.jsonl:2: is not UTF-8"),
        (b'{"a": "\\ud83d"}', r"d\.jsonl:1: \\ud83d is half of a character"),
        (b'{"a": ' + b"9" * 5000 + b"}", r"d\.jsonl:1: cannot be read as JSON"),
        (b'{"a": ' + b"[" * 100_000, r"d\.jsonl:1: cannot be read as JSON"),
    ],
)
def test_unusable_file_is_explained_with_its_place(tmp_path, content, message):
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_records(path)


def test_a_single_object_in_json_says_that_an_array_is_expected(tmp_path):
    path = tmp_path / "d.json"
    path.write_text('{\n "a": 1\n}')
    with pytest.raises(UserError, match=r"d\.json:1:2: .*expected a JSON array of objects"):
        read_records(path)


def test_missing_file_and_folder_are_explained(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        read_records(tmp_path)


def test_fingerprint_is_of_the_bytes(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(as_jsonl(ROWS), encoding="utf-8")
    _, fingerprint = read_with_fingerprint(path)
    assert fingerprint == (hashlib.sha256(path.read_bytes()).hexdigest(), 2)


JSON_LIKE = st.lists(st.sampled_from([*'[]{}",:\\\n\r 1-eu', "\\ud800", '{"a": "x"}', "true", "NaN"])).map(
    "".join
)


@given(st.one_of(st.binary(), JSON_LIKE.map(str.encode), st.text().map(str.encode)))
def test_any_bytes_are_records_or_a_user_error(content):
    try:
        records = parse_records(content, Path("data.jsonl"))
    except UserError:
        return
    for record in records:
        json.dumps(record.fields, ensure_ascii=False).encode()


@given(st.lists(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none())), min_size=1))
def test_records_survive_the_round_trip(rows):
    for text in (json.dumps(rows), as_jsonl(rows)):
        assert [record.fields for record in parse_records(text.encode(), Path("d"))] == rows
