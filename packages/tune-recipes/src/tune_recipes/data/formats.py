"""What a record of each format means: a text, and which parts of it the model learns to produce."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from tune_recipes.chat import ChatTemplate, Message, Span, load_chat_template
from tune_recipes.data.records import Record
from tune_recipes.errors import UserError
from tune_recipes.tokenizer import Tokenizer

# Source: https://github.com/tatsu-lab/stanford_alpaca, PROMPT_DICT in train.py.
ALPACA_PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
ALPACA_PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)

# ShareGPT's names for what `messages` calls role and content.
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}

# The fields of each format; `column_map` gives the columns they are in.
FIELDS = {
    "alpaca": ("instruction", "input", "output"),
    "chat": ("messages",),
    "completion": ("text", "prompt", "completion"),
}


class Sample(NamedTuple):
    """A record as text."""

    text: str
    """Prompt and answers."""
    answers: list[Span]
    """The characters [start, end) of each part to learn."""
    is_complete: bool
    """The text has its special tokens; otherwise the tokenizer's go around it and an eos token behind."""
    where: str
    """The record it was made of."""


def build_format(
    name: str,
    column_map: Mapping[str, str],
    tokenizer: Tokenizer,
    *,
    train_on_input: bool = False,
    now: datetime | None = None,
) -> Callable[[Record], Sample]:
    """Choose what makes samples of records.

    Args:
        name: `alpaca`, `chat` or `completion`.
        column_map: Field of the format to column of the file, where they differ.
        tokenizer: Has the chat template that `chat` needs.
        train_on_input: Learn the prompt too, not only the answers.
        now: What a chat template that prints today's date takes for it.

    Returns:
        A function from record to sample; it raises UserError when the record lacks a field.

    Raises:
        UserError: `column_map` maps what the format does not have, or there is no chat template.
    """
    fields = FIELDS[name]
    if unknown := [field for field in column_map if field not in fields]:
        raise UserError(
            f"data.column_map.{unknown[0]}: format {name} has no such field; it has {', '.join(fields)} "
            "(column_map gives our field's name first: {output: answer})"
        )
    columns = {field: column_map.get(field, field) for field in fields}
    if name == "chat":
        template = load_chat_template(tokenizer, now)
        make_chat = whole_chat_sample if train_on_input else chat_sample
        return lambda record: make_chat(record, columns, template)
    make = alpaca_sample if name == "alpaca" else completion_sample
    return lambda record: _learn_all(make(record, columns)) if train_on_input else make(record, columns)


def alpaca_prompt(instruction: str, context: str = "") -> str:
    """Write Stanford Alpaca's prompt.

    Args:
        instruction: The task.
        context: The input that the task is about; empty for none.

    Returns:
        The prompt, up to and including `### Response:`.
    """
    # `replace` and not `format`: braces in one text must not be taken for the other's place.
    before, after = (ALPACA_PROMPT_WITH_INPUT if context else ALPACA_PROMPT).split("{instruction}")
    return before + instruction + after.replace("{input}", context)


def alpaca_sample(record: Record, columns: Mapping[str, str]) -> Sample:
    """Make a prompt of `instruction` and, unless empty or absent, `input`; `output` is the answer."""
    context = record.fields.get(columns["input"])
    if context is not None:
        context = _text(record, columns["input"])
    prompt = alpaca_prompt(_text(record, columns["instruction"]), context or "")
    return _prompt_and_answer(prompt, _text(record, columns["output"]), record)


def completion_sample(record: Record, columns: Mapping[str, str]) -> Sample:
    """Learn all of `text`; or, in records without it, `completion` after `prompt`."""
    if columns["text"] in record.fields or columns["completion"] not in record.fields:
        return _prompt_and_answer("", _text(record, columns["text"]), record)
    return _prompt_and_answer(_text(record, columns["prompt"]), _text(record, columns["completion"]), record)


def chat_sample(record: Record, columns: Mapping[str, str], template: ChatTemplate) -> Sample:
    """Render `messages` with the checkpoint's template; the assistant's turns are the answers."""
    messages = _messages(record, columns["messages"])
    with _naming(record):
        text, answers = template.render_with_answers(messages)
    return Sample(text, answers, True, record.where)


def whole_chat_sample(record: Record, columns: Mapping[str, str], template: ChatTemplate) -> Sample:
    """Render `messages` and learn all of it; works with templates that do not show where answers are."""
    messages = _messages(record, columns["messages"])
    with _naming(record):
        text = template.render(messages)
    return Sample(text, [(0, len(text))], True, record.where)


def _prompt_and_answer(prompt: str, answer: str, record: Record) -> Sample:
    text = prompt + answer
    return Sample(text, [(len(prompt), len(text))], False, record.where)


def _learn_all(sample: Sample) -> Sample:
    return sample._replace(answers=[(0, len(sample.text))])


@contextmanager
def _naming(record: Record) -> Iterator[None]:
    """Say which record an error is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{record.where}: {error}") from error


def _text(record: Record, column: str) -> str:
    value = _value(record, column)
    if not isinstance(value, str):
        raise UserError(f"{record.where}: column {column!r} holds {_kind(value)}; expected a text")
    return value


def _value(record: Record, column: str) -> Any:
    if column not in record.fields:
        found = ", ".join(record.fields) or "none"
        raise UserError(
            f"{record.where}: has no column {column!r}; columns found: {found}. Map ours to the file's with "
            f"data.column_map, or choose another data.format ({', '.join(FIELDS)})"
        )
    return record.fields[column]


def _messages(record: Record, column: str) -> list[Message]:
    value = _value(record, column)
    if not isinstance(value, list) or not value:
        kind = "an empty list" if value == [] else _kind(value)
        raise UserError(f"{record.where}: column {column!r} holds {kind}; expected a list of messages")
    return [_message(item, f"{record.where}: {column}[{i}]") for i, item in enumerate(value)]


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise UserError(f"{where}: is {_kind(item)}; expected an object with role and content")
    if "role" not in item and "from" in item:
        role, content = item["from"], item.get("value")
        item = {"role": SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role, "content": content}
    for field in ("role", "content"):
        if not isinstance(item.get(field), str):
            held = (
                f"holds {_kind(item[field])}"
                if field in item
                else f"is missing; found {', '.join(item) or 'none'}"
            )
            raise UserError(f"{where}: {field!r} {held}; a message needs role and content, both texts")
    return item


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
