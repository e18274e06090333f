import datetime
import itertools

import pytest
from transformers import AutoTokenizer

from tune_recipes.chat import ChatTemplate, load_chat_template
from tune_recipes.errors import UserError
from tune_recipes.tokenizer import Tokenizer

# Small templates in the ways of real ones.
CHATML = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{% endif %}\
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|im_start|>system<|im_end|>\n\nToday Date: " + date_string + "\n\n" + system_message + "</s>" }}
{%- if tools is not none %}{{ tools | tojson(indent=2) }}{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '<|im_end|>\n\n' + message['content'] | trim + '</s>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant<|im_end|>\n\n' }}
{%- endif %}
"""

MISTRAL = """\
{%- if messages[0]["role"] == "system" %}{% set system = messages[0]["content"] %}\
{% set rest = messages[1:] %}{%- else %}{% set rest = messages %}{% endif %}
{%- set ns = namespace(index=0) %}
{{- bos_token }}
{%- for message in rest %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("Roles must alternate user/assistant/user/assistant") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{%- for message in rest %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system is defined %}
            {{- "[INST] " + system + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

# Moves the system message to the last user turn and drops the thoughts of earlier answers.
REWRITING = """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if loop.index0 == ns.last and messages[0].role == 'system' %}
        {{- messages[0].content + '\n' }}
    {%- endif %}
    {%- if message.role == 'assistant' and loop.index0 < ns.last %}
        {{- message.content.split('</think>')[-1].lstrip('\n') }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}
"""

GENERATION_TAG = """\
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- '<|im_start|>assistant\n' }}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{{- '\n' }}
{%- else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

# Its line breaks are gone only where blocks swallow the space around them.
ON_LINES_OF_THEIR_OWN = """\
{% for message in messages %}
    {% if message['role'] == 'user' %}
<|im_start|>{{ message['content'] }}<|im_end|>
    {% else %}
{{ message['content'] }}</s>
    {% endif %}
{% endfor %}
"""

TEMPLATES = {
    "on_lines_of_their_own": ON_LINES_OF_THEIR_OWN,
    "chatml": CHATML,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "rewriting": REWRITING,
    "generation": GENERATION_TAG,
}


def turn(role, content):
    return {"role": role, "content": content}


USER, ANSWER = turn("user", "  What is\nit? "), turn("assistant", 'Paris <b>&amp; "é" 🙂')
SYSTEM = turn("system", "Be\nkind.")
MULTI = [USER, ANSWER, turn("user", "And?"), turn("assistant", "Berlin\n")]
CONVERSATIONS = {
    "single": [USER, ANSWER],
    "question": [USER],
    "multi": MULTI,
    "system": [SYSTEM, *MULTI],
    "extra_keys": [{**USER, "name": None, "id": 7}, ANSWER],
}

CASES = list(itertools.product(TEMPLATES, CONVERSATIONS))


@pytest.mark.parametrize(("name", "conversation"), CASES)
@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_text_and_ids_equal_those_of_apply_chat_template(
    make_folder, name, conversation, add_generation_prompt
):
    folder = make_folder(chat_template=TEMPLATES[name])
    tokenizer, reference = Tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    messages = CONVERSATIONS[conversation]
    options = {"add_generation_prompt": add_generation_prompt}
    text = load_chat_template(tokenizer).render(messages, **options)
    assert text == reference.apply_chat_template(messages, tokenize=False, **options)
    ids = reference.apply_chat_template(messages, return_dict=False, **options)
    assert tokenizer.encode(text, add_special_tokens=False) == ids


def test_helpers_of_templates_work_as_in_transformers(make_folder):
    source = (
        "{{ messages[0] | tojson }}{{ messages | tojson(indent=2, sort_keys=true) }}{{ dict(a=1).a }}"
        "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i * 2 }}{% endfor %}{{ '-' * 3 }}"
        "{{ strftime_now('%Y') }}{{ unk_token }}{{ nothing_of_this_name }}{{ messages[0].nothing }}"
        "{{ 'name' in messages[0] }}"
    )
    folder = make_folder(chat_template=source)
    text = load_chat_template(Tokenizer(folder)).render([{**ANSWER, "name": None}])
    reference = AutoTokenizer.from_pretrained(folder)
    assert text == reference.apply_chat_template([{**ANSWER, "name": None}], tokenize=False)
    assert str(datetime.date.today().year) in text


def test_a_template_prints_the_date_that_it_is_given():
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=datetime.datetime(2024, 2, 29))
    assert template.render([ANSWER]) == "29 Feb 2024"


def answers(name, messages):
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    template = ChatTemplate(TEMPLATES[name], special, ["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    text, spans = template.render_with_answers(messages)
    assert text == template.render(messages)
    return [text[start:end] for start, end in spans]


FIRST = ANSWER["content"]


@pytest.mark.parametrize("messages", [MULTI, [SYSTEM, *MULTI], [*MULTI, USER]])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chatml", [f"{FIRST}<|im_end|>", "Berlin\n<|im_end|>"]),
        ("generation", [f"{FIRST}<|im_end|>", "Berlin\n<|im_end|>"]),
        ("llama3", [f"{FIRST}</s>", "Berlin</s>"]),
        ("rewriting", [f"{FIRST}<|im_end|>", "Berlin\n<|im_end|>"]),
    ],
)
def test_answers_are_the_assistant_turns_with_the_token_that_ends_them(name, messages, expected):
    assert answers(name, messages) == expected


def test_answer_begins_where_the_prompt_ends_when_the_template_writes_a_space_before_it():
    assert answers("mistral", MULTI) == [f" {FIRST}</s>", " Berlin</s>"]


def test_answer_is_found_when_later_turns_change_earlier_ones():
    # The system message moves on with the last user turn: no prefix of the conversation renders alike.
    assert answers("mistral", [SYSTEM, *MULTI, USER])[0].strip() == f"{FIRST}</s>"
    thoughtful = turn("assistant", "<think>\nhm\n</think>\n\nParis")
    found = answers("rewriting", [SYSTEM, USER, thoughtful, USER, thoughtful])
    assert found == ["Paris<|im_end|>", "hm\n</think>\n\nParis<|im_end|>"]


def test_answers_that_say_the_same_and_empty_ones_are_told_apart():
    same = [USER, turn("assistant", "a"), USER, turn("assistant", "a"), USER, turn("assistant", "")]
    for name in ("chatml", "rewriting"):
        assert answers(name, same) == ["a<|im_end|>", "a<|im_end|>", "<|im_end|>"]


def test_line_breaks_that_end_a_turn_without_a_token_are_part_of_the_answer():
    source = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n\n' }}{% endfor %}"
    source += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    text, spans = ChatTemplate(source).render_with_answers(MULTI)
    assert [text[start:end] for start, end in spans] == [f"{FIRST}\n\n", "Berlin\n\n\n"]


def test_answer_is_found_when_the_template_refuses_the_conversation_before_it():
    assert answers("llama3", [ANSWER]) == [f"{FIRST}</s>"]


def test_token_that_begins_an_answer_is_not_taken_for_the_one_that_ends_it():
    source = "{% for m in messages %}{{ '<s>' + m.content + '\n' }}{% endfor %}"
    source += "{% if add_generation_prompt %}{{ '<s>' }}{% endif %}"
    template = ChatTemplate(source, control_tokens=["<s>"])
    text, spans = template.render_with_answers([USER, turn("assistant", ""), USER])
    assert [text[start:end] for start, end in spans] == ["\n"]


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | length }}",
        "{% for m in messages | reverse %}{{ m.content | upper }}{% endfor %}",
    ],
)
def test_template_that_hides_answers_says_how_to_go_on(source):
    with pytest.raises(UserError, match=r"answer in message 2 .*data\.train_on_input=true"):
        ChatTemplate(source).render_with_answers(MULTI)


def test_no_template_says_what_to_use_instead(make_folder):
    with pytest.raises(UserError, match=r"no chat template .*data\.format=alpaca"):
        load_chat_template(Tokenizer(make_folder()))


def test_syntax_error_names_folder_and_line(make_folder):
    folder = make_folder(chat_template="a\n{% for %}")
    with pytest.raises(UserError, match=rf"{folder}: chat template, line 2: "):
        load_chat_template(Tokenizer(folder))


def test_message_of_the_template_reaches_the_user():
    with pytest.raises(UserError, match="failed: Roles must alternate"):
        ChatTemplate(MISTRAL, {"bos_token": "<s>"}).render([ANSWER])


def test_each_rendering_has_its_own_allowance_of_steps():
    template = ChatTemplate("{% for i in range(60000) %}{% endfor %}done")
    assert [template.render([USER]) for _ in range(2)] == ["done", "done"]


def test_attributes_that_lead_out_of_the_sandbox_are_empty():
    source = "{{ ''.__class__ }}{{ '{0.__class__}'.format('') }}{{ messages.__len__ }}"
    assert ChatTemplate(source).render([USER]) == ""


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages[0].update(a=1) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% for i in range(999999999) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 9999999 }}",
        "{{ (9999999 * [1]) | length }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{{ nothing.of.this }}",
        "{% include 'x' %}",
    ],
)
def test_template_that_attacks_or_fails_is_a_user_error(source):
    template = ChatTemplate(source)
    with pytest.raises(UserError, match=r"chat template failed: \S"):
        template.render([USER])
