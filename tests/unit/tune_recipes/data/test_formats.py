import pytest
from transformers import AutoTokenizer

from tune_recipes.data.encode import encode_records
from tune_recipes.data.formats import Sample, alpaca_prompt, build_format
from tune_recipes.data.records import Record
from tune_recipes.errors import UserError
from tune_recipes.tokenizer import Tokenizer

TURN = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
TURN_WITH_TAG = (
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
)
CHATML = (
    "{% for message in messages %}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def examples(tokenizer, name, rows, *, column_map=None, max_seq_len=512, train_on_input=False):
    make_sample = build_format(name, column_map or {}, tokenizer, train_on_input=train_on_input)
    records = [Record(row, f"data.jsonl:{line}") for line, row in enumerate(rows, start=1)]
    return list(encode_records(records, make_sample, tokenizer, max_seq_len=max_seq_len))


def learned(tokenizer, example):
    """Text of prompt and of what is learned, special tokens shown."""
    parts = (
        [i for i, t in zip(example.ids, example.is_target, strict=True) if t is wanted]
        for wanted in (False, True)
    )
    return tuple(tokenizer.decode(part, skip_special_tokens=False) for part in parts)


def conversation(*texts, system=None):
    messages = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return {"messages": messages + [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}


def test_alpaca_prompt_is_that_of_stanford_alpaca():
    with_input = alpaca_prompt("Say {input}.", "{instruction}")
    assert with_input == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSay {input}.\n\n### Input:\n{instruction}\n\n### Response:"
    )
    assert alpaca_prompt("Say hi.") == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nSay hi.\n\n### Response:"
    )


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_alpaca_learns_the_output_and_one_eos(make_folder, kind):
    folder = make_folder(kind)
    tokenizer, reference = Tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    rows = [
        {"instruction": "Capital of\nFrance?", "input": "", "output": "Paris 🙂"},
        {"instruction": "Capital?", "input": "France", "output": ""},
        {"instruction": "Capital?", "output": "\n\nParis"},
        {"instruction": "Capital?", "input": None, "output": "x"},
    ]
    for row, example in zip(rows, examples(tokenizer, "alpaca", rows), strict=True):
        prompt = alpaca_prompt(row["instruction"], row.get("input") or "")
        assert example.ids == reference.encode(
            "<s>" + prompt + row["output"] + "</s>", add_special_tokens=False
        ) or (example.ids == [1, *reference.encode(prompt + row["output"], add_special_tokens=False), 2])
        assert learned(tokenizer, example) == (
            f"<s>{'' if kind == 'byte_level' else ' '}{prompt}",
            f"{row['output']}</s>",
        )


def test_the_prompt_of_an_example_is_what_the_model_sees_when_it_generates(demo):
    tokenizer = Tokenizer(demo)
    (example,) = examples(tokenizer, "alpaca", [{"instruction": "Capital of France?", "output": "Paris"}])
    prompt = tokenizer.encode(alpaca_prompt("Capital of France?"))
    assert example.ids[: len(prompt)] == prompt
    assert example.is_target == [False] * len(prompt) + [True] * (len(example.ids) - len(prompt))


def test_completion_learns_all_of_a_text_or_what_follows_a_prompt(make_folder):
    tokenizer = Tokenizer(make_folder())
    rows = [
        {"text": "Paris is\n"},
        {"prompt": "Paris", "completion": " is"},
        {"text": "a", "completion": "b"},
    ]
    found = [learned(tokenizer, example) for example in examples(tokenizer, "completion", rows)]
    assert found == [("<s>", "Paris is\n</s>"), ("<s>Paris", " is</s>"), ("<s>", "a</s>")]


def test_eos_is_not_added_to_a_tokenizer_that_adds_it_or_has_none(make_folder):
    adds = Tokenizer(make_folder("sentencepiece"))
    (example,) = examples(adds, "completion", [{"text": "Paris"}])
    assert example.ids == adds.encode("Paris")
    has_none = Tokenizer(make_folder(eos_token=None))
    (example,) = examples(has_none, "completion", [{"text": "Paris"}])
    assert example.ids == has_none.encode("Paris")


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_chat_learns_every_assistant_turn(make_folder, kind):
    folder = make_folder(kind, eos_token="<|im_end|>", chat_template=CHATML)
    tokenizer, reference = Tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    row = conversation("Capital?", "Paris\n 🙂 ", "And?", "Berlin", system="Be kind.")
    (example,) = examples(tokenizer, "chat", [row])
    assert example.ids == reference.apply_chat_template(row["messages"], return_dict=False)
    assert learned(tokenizer, example)[1] == "Paris\n 🙂 <|im_end|>Berlin<|im_end|>"
    with_tags = CHATML.replace(TURN, TURN_WITH_TAG)
    expected = reference.apply_chat_template(
        row["messages"], chat_template=with_tags, return_dict=True, return_assistant_tokens_mask=True
    )
    assert expected["input_ids"] == example.ids
    assert expected["assistant_masks"] == [int(flag) for flag in example.is_target]


def test_spaces_at_the_edges_of_an_answer_are_learned(make_folder):
    # A byte-level post-processor would trim their tokens' offsets away.
    tokenizer = Tokenizer(make_folder(eos_token="<|im_end|>", chat_template=CHATML))
    (example,) = examples(tokenizer, "chat", [conversation("a", "  Paris \n ")])
    assert learned(tokenizer, example)[1] == "  Paris \n <|im_end|>"


def test_token_that_covers_an_answer_and_more_is_learned(demo):
    tokenizer = Tokenizer(demo)
    sample = Sample("What is the capital of France?", [(14, 16), (26, 26)], True, "data.jsonl:1")
    (example,) = encode_records([Record({}, "")], lambda _: sample, tokenizer, max_seq_len=9)
    assert learned(tokenizer, example)[1] == " capital"


def test_first_token_alone_is_nothing_to_learn(demo):
    sample = Sample("What is", [(0, 4)], True, "data.jsonl:1")
    with pytest.raises(UserError, match=r"data\.jsonl:1: has nothing to learn"):
        list(encode_records([Record({}, "")], lambda _: sample, Tokenizer(demo), max_seq_len=9))


def test_train_on_input_learns_everything(make_folder):
    tokenizer = Tokenizer(make_folder(chat_template=CHATML))
    for name, row in {
        "alpaca": {"instruction": "a", "output": "b"},
        "chat": conversation("a", "b", "c"),
        "completion": {"prompt": "a", "completion": "b"},
    }.items():
        (example,) = examples(tokenizer, name, [row], train_on_input=True)
        assert all(example.is_target[1:])


def test_train_on_input_needs_no_template_that_shows_its_answers(make_folder):
    tokenizer = Tokenizer(make_folder(chat_template="{{ messages | length }} messages"))
    row = conversation("a", "b")
    with pytest.raises(UserError, match=r"data\.jsonl:1: .*train_on_input=true"):
        examples(tokenizer, "chat", [row])
    assert len(examples(tokenizer, "chat", [row], train_on_input=True)) == 1


def test_columns_of_other_names_are_mapped(make_folder):
    tokenizer = Tokenizer(make_folder(chat_template=CHATML))
    (plain,) = examples(tokenizer, "alpaca", [{"instruction": "a", "output": "b"}])
    row = {"question": "a", "output": "no", "answer": "b"}
    mapped = examples(tokenizer, "alpaca", [row], column_map={"instruction": "question", "output": "answer"})
    assert mapped == [plain]
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (shared,) = examples(
        tokenizer, "chat", [{"conversations": turns}], column_map={"messages": "conversations"}
    )
    assert [shared] == examples(tokenizer, "chat", [conversation("a", "b", system="s")])


def test_column_map_of_an_unknown_field_names_those_of_the_format(demo):
    with pytest.raises(
        UserError, match=r"data\.column_map\.answer: format alpaca has no such field; .*output"
    ):
        build_format("alpaca", {"answer": "output"}, Tokenizer(demo))


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("alpaca", {"prompt": "a", "output": "b"}, "no column 'instruction'; columns found: prompt, output"),
        ("alpaca", {}, "no column 'instruction'; columns found: none"),
        ("alpaca", {"instruction": "a", "output": 3}, "column 'output' holds a number; expected a text"),
        ("alpaca", {"instruction": "a", "output": "b", "input": []}, "column 'input' holds a list"),
        ("completion", {"prompt": "a"}, "no column 'text'; columns found: prompt"),
        ("completion", {"completion": "a"}, "no column 'prompt'; columns found: completion"),
        ("completion", {"text": None}, "column 'text' holds null"),
        ("chat", {"text": "a"}, "no column 'messages'; columns found: text"),
        ("chat", {"messages": []}, "column 'messages' holds an empty list"),
        ("chat", {"messages": "a"}, "column 'messages' holds a text; expected a list of messages"),
        ("chat", {"messages": ["a"]}, r"messages\[0\]: is a text; expected an object with role and content"),
        ("chat", {"messages": [{"role": "user"}]}, r"messages\[0\]: 'content' is missing; found role"),
        ("chat", {"messages": [{"role": 1, "content": "a"}]}, r"messages\[0\]: 'role' holds a number"),
        ("chat", {"messages": [{"from": [], "value": "a"}]}, r"messages\[0\]: 'role' holds a list"),
        (
            "chat",
            {"messages": [{"role": "user", "content": "a"}]},
            r"nothing to learn \(no assistant message\)",
        ),
        ("completion", {"text": ""}, "nothing to learn"),
    ],
)
def test_unusable_record_is_named_with_what_was_found(make_folder, name, row, message):
    tokenizer = Tokenizer(make_folder(chat_template=CHATML, eos_token=None))
    good = {
        "alpaca": {"instruction": "a", "output": "b"},
        "completion": {"text": "ab"},
        "chat": conversation("a", "b"),
    }
    with pytest.raises(UserError, match=rf"data\.jsonl:2: ?{message}|data\.jsonl:2: has {message}"):
        examples(tokenizer, name, [good[name], row])


def test_template_that_refuses_a_record_names_it(make_folder):
    template = "{% if messages | length > 2 %}{{ raise_exception('too many') }}{% endif %}" + CHATML
    tokenizer = Tokenizer(make_folder(chat_template=template))
    with pytest.raises(UserError, match=r"data\.jsonl:2: the chat template failed: too many"):
        examples(tokenizer, "chat", [conversation("a", "b"), conversation("a", "b", "c", "d")])


def test_truncation_keeps_the_beginning_and_fills_every_position(make_folder):
    tokenizer = Tokenizer(make_folder())
    row = {"text": "Paris is the capital of France."}
    (whole,) = examples(tokenizer, "completion", [row])
    (cut,) = examples(tokenizer, "completion", [row], max_seq_len=5)
    assert (cut.ids, cut.is_target) == (whole.ids[:6], whole.is_target[:6])
    (fitting,) = examples(tokenizer, "completion", [row], max_seq_len=len(whole.ids) - 1)
    assert fitting == whole


def test_a_record_whose_answer_is_cut_off_says_what_would_keep_it(make_folder):
    tokenizer = Tokenizer(make_folder())
    row = {"prompt": "What is the capital of France?", "completion": "Paris"}
    (whole,) = examples(tokenizer, "completion", [row])
    begin = whole.is_target.index(True)
    assert len(examples(tokenizer, "completion", [row], max_seq_len=begin)) == 1
    expected = rf"data\.jsonl:1: .*first {begin - 1} tokens.*max_seq_len to {len(whole.ids) - 1} "
    with pytest.raises(UserError, match=expected):
        examples(tokenizer, "completion", [row], max_seq_len=begin - 1)
