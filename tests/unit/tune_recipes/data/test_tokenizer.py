import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from tune_recipes.errors import UserError
from tune_recipes.tokenizer import StreamDecoder, Tokenizer

KINDS = ("byte_level", "sentencepiece")
TEXTS = [
    "",
    " ",
    "What is the capital of France?",
    "  two spaces,\ttab,\n\nnewlines \n",
    "naïve café 東京 🙂👩‍👩‍👧 \u200b\u0301",
    "def f(x):\n    return x ** 2  # 007",
    "<|im_start|>user\nhi<|im_end|>\n</s><s> <unk>x",
    "▁ already there, <0x0A>",
]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_those_of_auto_tokenizer(make_folder, kind):
    folder = make_folder(kind)
    ours, reference = Tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        for add_special_tokens in (True, False):
            expected = reference.encode(text, add_special_tokens=add_special_tokens)
            assert ours.encode(text, add_special_tokens=add_special_tokens) == expected
        ids = reference.encode(text)
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == reference.decode(
                ids, skip_special_tokens=skip
            )


def test_special_tokens_go_around_a_text_as_auto_tokenizer_puts_them(make_folder):
    tokenizer = Tokenizer(make_folder("sentencepiece"))
    ids = tokenizer.encode("Paris", add_special_tokens=False)
    assert tokenizer.encode("Paris") == [tokenizer.bos_id, *ids, tokenizer.eos_id]
    assert tokenizer.surround(ids) == ([tokenizer.bos_id, *ids, tokenizer.eos_id], 1)


def test_tokens_that_only_the_config_names_get_the_ids_that_auto_tokenizer_gives_them(make_folder):
    added = {"421": {"content": "<b>", "special": False}, "420": {"content": "<a>", "special": True}}
    config = {"pad_token": "[PAD]", "additional_special_tokens": ["<tool>"], "image_token": "<image>"}
    for folder in (make_folder(**config), make_folder(**config, added_tokens_decoder=added)):
        ours, reference = Tokenizer(folder), AutoTokenizer.from_pretrained(folder)
        text = "a[PAD]b<tool><image><a><b>"
        assert ours.encode(text) == reference.encode(text)
        assert ours.pad_id == reference.pad_token_id
        assert ours.vocab_size == len(reference)
        assert ours.special_tokens == reference.special_tokens_map


def test_truncation_and_padding_saved_in_the_file_are_ignored(make_folder):
    folder = make_folder()
    whole = Tokenizer(folder).encode(TEXTS[2])
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    assert Tokenizer(folder).encode(TEXTS[2]) == whole
    batch = Tokenizer(folder).encode_batch(["a", TEXTS[2]])
    assert [len(encoding.ids) for encoding in batch] == [1, len(whole) - 1]


def test_token_names_are_read_in_both_dialects(make_folder):
    folder = make_folder(
        bos_token={"content": "<s>", "lstrip": False}, eos_token={"content": "<|im_end|>", "special": True}
    )
    tokenizer = Tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 4, 4)
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}


def test_special_tokens_map_counts_as_it_does_for_auto_tokenizer(make_folder):
    files = {"special_tokens_map.json": {"eos_token": {"content": "<|im_end|>"}, "pad_token": "<unk>"}}
    decoder = {"2": {"content": "</s>", "special": True}}
    for folder in (make_folder(files=files), make_folder(files=files, added_tokens_decoder=decoder)):
        ours, reference = Tokenizer(folder), AutoTokenizer.from_pretrained(folder)
        assert (ours.eos_id, ours.special_tokens) == (reference.eos_token_id, reference.special_tokens_map)


def test_every_eos_of_the_generation_config_ends_generation(make_folder):
    files = {"generation_config.json": {"eos_token_id": [4, 2]}, "config.json": {"eos_token_id": 3}}
    assert Tokenizer(make_folder(files=files)).eos_ids == (2, 4)
    assert Tokenizer(make_folder(files={"config.json": {"eos_token_id": 3}})).eos_ids == (2, 3)


def test_ids_come_from_config_json_unless_the_tokenizer_says_that_it_has_none(make_folder):
    files = {"config.json": {"bos_token_id": 1, "eos_token_id": 4, "pad_token_id": -1}}
    says_none = Tokenizer(make_folder(files=files, bos_token=None))
    assert (says_none.bos_id, says_none.eos_id, says_none.pad_id) == (None, 2, 2)
    folder = make_folder(files=files)
    (folder / "tokenizer_config.json").unlink()
    silent = Tokenizer(folder)
    assert (silent.bos_id, silent.eos_id, silent.eos_ids, silent.pad_id) == (1, 4, (4,), 4)


def test_missing_tokenizer_json_says_what_was_found_instead(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Tokenizer(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no tokenizer\.json; copy it"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(UserError, match=r"only tokenizer\.model \(a SentencePiece.*save_pretrained"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_damaged_file_is_named(make_folder, name, content):
    folder = make_folder()
    (folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=name):
        Tokenizer(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": None}, r"tokenizer_config\.json: added_tokens_decoder: expected an object"),
        ({"added_tokens_decoder": {"a": {"content": "<a>"}}}, "added_tokens_decoder: .*'a'"),
        ({"added_tokens_decoder": {"1": "<a>"}}, "added_tokens_decoder: expected an object of tokens by id"),
        ({"added_tokens_decoder": {"1": {"content": 5}}}, "added_tokens_decoder: expected an object"),
        (
            {"additional_special_tokens": 5},
            "additional_special_tokens .*: expected a list of tokens, found 5",
        ),
        ({"chat_template": 5}, r"tokenizer_config\.json: chat_template: expected a text"),
        ({"chat_template": [{"x": 1}]}, "chat_template: expected a text, or a list of objects"),
        ({"chat_template": [5]}, "chat_template: expected a text, or a list of objects"),
    ],
)
def test_malformed_field_is_named_with_its_file(make_folder, config, message):
    with pytest.raises(UserError, match=message):
        Tokenizer(make_folder(**config))


def test_chat_template_that_is_no_text_is_named(make_folder):
    folder = make_folder()
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"chat_template\.jinja: not UTF-8"):
        Tokenizer(folder)


def test_chat_template_comes_from_its_file_or_the_config(make_folder):
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert Tokenizer(make_folder()).chat_template is None
    assert Tokenizer(make_folder(chat_template="S")).chat_template == "S"
    assert Tokenizer(make_folder(chat_template=named)).chat_template == "D"
    folder = make_folder(chat_template=named)
    (folder / "chat_template.jinja").write_text("F\n")
    assert Tokenizer(folder).chat_template == "F\n" == AutoTokenizer.from_pretrained(folder).chat_template


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory, backends):
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        backends[kind].save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return {kind: Tokenizer(tmp_path_factory.getbasetemp() / f"{kind}0") for kind in KINDS}


def stream(tokenizer, ids, *, skip):
    decoder = StreamDecoder(tokenizer, skip_special_tokens=skip)
    return [decoder.feed(i) for i in ids], decoder.finish()


@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30), skip=st.booleans())
def test_streamed_text_adds_up_and_is_never_half_a_character(tokenizers, kind, text, skip):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    pieces, rest = stream(tokenizer, ids, skip=skip)
    assert "".join(pieces) + rest == tokenizer.decode(ids, skip_special_tokens=skip)
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(pieces)


@given(ids=st.lists(st.integers(0, 419), max_size=12), skip=st.booleans())
def test_streamed_text_adds_up_even_when_its_bytes_are_no_text(tokenizers, ids, skip):
    tokenizer = tokenizers["byte_level"]
    pieces, rest = stream(tokenizer, ids, skip=skip)
    assert "".join(pieces) + rest == tokenizer.decode(ids, skip_special_tokens=skip)


def test_stream_holds_back_a_character_until_it_is_whole(tokenizers):
    tokenizer = tokenizers["byte_level"]
    ids = tokenizer.encode("🦜", add_special_tokens=False)
    assert len(ids) > 1
    assert stream(tokenizer, ids, skip=True) == ([""] * (len(ids) - 1) + ["🦜"], "")
    assert stream(tokenizer, ids[:-1], skip=True) == ([""] * (len(ids) - 1), "\ufffd")
