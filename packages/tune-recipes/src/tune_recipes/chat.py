"""A conversation as the text that the checkpoint was trained on: its own template, rendered in a sandbox.

Source: the `chat_template` of a Hugging Face tokenizer; rendered as transformers' `apply_chat_template` does.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tune_recipes.errors import UserError
from tune_recipes.tokenizer import Tokenizer

Message = Mapping[str, Any]
Span = tuple[int, int]

# Stands in for an answer to find where the template puts it. Only letters: nothing that a template would
# strip or split.
MARKER = "TuneAnswerStandsHere"

# Against templates that run away by mistake: real ones need a small part of this. It does not stop one that
# means harm: as in transformers, nothing bounds padding, formatting and concatenation.
MAX_RANGE_STEPS = 100_000
MAX_REPEATED_CHARS = 1_000_000


class ChatTemplate:
    """A compiled chat template.

    Raises:
        UserError: The template is not valid Jinja, or what it is given makes it fail.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        control_tokens: Collection[str] = (),
        now: datetime | None = None,
    ):
        """Compile a template.

        Args:
            source: The Jinja source.
            special_tokens: What the template may use by name, such as `eos_token`.
            control_tokens: Texts of all special tokens; the one after an answer belongs to the answer.
            now: What a template that prints today's date takes for it; None: when it is rendered.
        """
        self._environment = _Sandbox(now)
        try:
            self._template = self._environment.from_string(source)
        except TemplateSyntaxError as error:
            raise UserError(f"chat template, line {error.lineno}: {error.message}") from error
        except (TemplateError, RecursionError) as error:
            raise UserError(f"chat template: {_reason(error)}") from error
        self._special_tokens = dict(special_tokens or {})
        self._control_tokens = tuple(token for token in control_tokens if token)
        either = "|".join(re.escape(token) for token in sorted(self._control_tokens, key=len, reverse=True))
        self._control_token_next = re.compile(rf"\s*(?:{either})" if either else "(?!)")

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Render a conversation.

        Args:
            messages: Objects with `role` and `content`.
            add_generation_prompt: End with what comes before an answer, so that the model gives one.

        Returns:
            The text, special tokens written out: encode it without adding any.

        Raises:
            UserError: The template refuses the conversation, does what the sandbox forbids, or fails.
        """
        plain = [{key: value for key, value in message.items() if value is not None} for message in messages]
        self._environment.steps_left = MAX_RANGE_STEPS
        given = {
            "messages": plain,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._template.render(self._special_tokens | given)
        except Exception as error:  # a template is foreign code: it can raise whatever Python can
            raise UserError(f"the chat template failed: {_reason(error)}") from error

    def render_with_answers(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """Render a conversation and find the assistant's turns in it.

        An answer goes from the end of its generation prompt to the end of its turn, the token that ends the
        turn included: what the model has to produce when it is asked.

        Args:
            messages: Objects with `role` and `content`.

        Returns:
            The text, and for each assistant message the characters [start, end) of it.

        Raises:
            UserError: As for `render`, or an answer cannot be found in what the template makes of it.
        """
        text = self.render(messages)
        turns = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        return text, [self._answer_span(messages, turn, text) for turn in turns]

    def _answer_span(self, messages: Sequence[Message], turn: int, text: str) -> Span:
        span = self._span_by_prefix(messages, turn, text) or self._span_by_marker(messages, turn, text)
        if span is None:
            raise UserError(
                f"the chat template does not show where the answer in message {turn + 1} begins and ends, "
                "so the prompt cannot be masked; set data.train_on_input=true to learn the whole conversation"
            )
        return span

    def _span_by_prefix(self, messages: Sequence[Message], turn: int, text: str) -> Span | None:
        """Render what comes before the answer and what ends with it; mostly both begin the text."""
        try:
            before = self.render(messages[:turn], add_generation_prompt=True)
            through = text if turn + 1 == len(messages) else self.render(messages[: turn + 1])
        except UserError:  # some templates refuse a conversation that stops there
            return None
        if not (through.startswith(before) and text.startswith(through)):
            return None
        # The line break after the token that ends a turn is never asked of the model: generation has stopped.
        stripped = through.rstrip()
        ends_with_token = len(stripped) > len(before) and stripped.endswith(self._control_tokens)
        return len(before), len(stripped if ends_with_token else through)

    def _span_by_marker(self, messages: Sequence[Message], turn: int, text: str) -> Span | None:
        """Put a marker in the answer's place and see what stays the same before and after it.

        Finds answers in templates that rewrite earlier turns when later ones come: that move the system
        message to the last user message, or drop the reasoning of earlier answers.
        """
        marked = [
            {**message, "content": MARKER} if i == turn else message for i, message in enumerate(messages)
        ]
        before, found, after = self.render(marked).partition(MARKER)
        if not found or len(before) + len(after) > len(text):
            return None
        if not (text.startswith(before) and text.endswith(after)):
            return None
        end = len(text) - len(after)
        end_of_turn = self._control_token_next.match(text, end)
        return len(before), end_of_turn.end() if end_of_turn else end


def load_chat_template(tokenizer: Tokenizer, now: datetime | None = None) -> ChatTemplate:
    """Compile the chat template of a model folder.

    Args:
        tokenizer: The folder's tokenizer.
        now: What a template that prints today's date takes for it; None: when it is rendered.

    Returns:
        The template.

    Raises:
        UserError: The folder has no chat template, or it is not valid Jinja.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"{tokenizer.folder}: has no chat template (neither chat_template.jinja nor `chat_template` in "
            "tokenizer_config.json), as is usual for base models; use data.format=alpaca or "
            "data.format=completion (prompt_format=raw to generate), or an instruction-tuned checkpoint"
        )
    try:
        return ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens, tokenizer.control_tokens, now)
    except UserError as error:
        raise UserError(f"{tokenizer.folder}: {error}") from error


class _GenerationTag(Extension):
    """`{% generation %}` marks answers for transformers; here only what stands in it matters."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The environment that transformers renders them in; ranges and repetition capped, no powers."""

    intercepted_binops = frozenset(["*", "**"])

    def __init__(self, now: datetime | None):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: (now or datetime.now()).strftime(form)
        self.globals["range"] = self._range
        self.steps_left = MAX_RANGE_STEPS

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("powers are not allowed")
        for count, repeated in ((left, right), (right, left)):
            is_repetition = isinstance(count, int) and isinstance(repeated, str | list | tuple)
            if is_repetition and count * len(repeated) > MAX_REPEATED_CHARS:
                raise SecurityError(f"a repetition longer than {MAX_REPEATED_CHARS:,}")
        return super().call_binop(context, operator, left, right)

    def _range(self, *args: int) -> range:
        # jinja2 limits each range; nested ones multiply, so all of a rendering share one allowance.
        steps = range(*args)
        self.steps_left -= len(steps)
        if self.steps_left < 0:
            raise SecurityError(f"ranges of more than {MAX_RANGE_STEPS:,} steps in all")
        return steps


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own escapes for HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
