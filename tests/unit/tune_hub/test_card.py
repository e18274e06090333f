"""The model card says what is known, nothing else, and the Hub can read it."""

import ast
import re
import shlex

import msgspec
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from tune_hub.card import CardFacts, model_card
from tune_hub.markup import code, code_block, plain, yaml_header

LORA = CardFacts(
    name="capitals-lora",
    method="lora",
    form="adapter",
    repository="acme/capitals-lora",
    base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
    base_commit="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    license="apache-2.0",
    language=("en",),
    rank=8,
    alpha=16.0,
    data_name="capitals.jsonl",
    data_sha256="8ea3d353c2ef",
    num_records=180,
    settings={"optim.lr": "0.003", "lora.targets": "[q_proj, v_proj]"},
    steps=1200,
    tokens=1_234_567,
    target_tokens=234_567,
    hardware="2 x NVIDIA A100",
    world_size=2,
    duration_s=4000.0,
    final_loss=0.51234,
    validation_loss=0.6,
    versions={"python": "3.11.7", "torch": "2.15.0"},
    command="tune run lora_finetune model=SmolLM2-135M-Instruct data.path=capitals.jsonl",
    prompt_format="chat",
    prompt="What is the capital of France?",
)
LORA_CARD = """\
---
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
base_model_relation: adapter
library_name: peft
license: apache-2.0
language:
- en
pipeline_tag: text-generation
tags:
- tune
- lora
---

# capitals-lora

A LoRA adapter for `HuggingFaceTB/SmolLM2-135M-Instruct`, trained on `capitals.jsonl`. Trained with `tune`.

## Training

|  |  |
|---|---|
| Method | LoRA (rank 8, alpha 16) |
| Base model | `HuggingFaceTB/SmolLM2-135M-Instruct` at `12fd25f77366` |
| Data | `capitals.jsonl`, 180 examples, sha256 `8ea3d353c2ef` |
| Steps | 1,200 |
| Tokens seen | 1,234,567 (234,567 of them in the loss) |
| Final loss | 0.5123 |
| Validation loss | 0.6000 |
| Hardware | 2 x NVIDIA A100, 2 processes |
| Duration | 67 minutes |

What was set otherwise than by default:

| Option | Value |
|---|---|
| `optim.lr` | `0.003` |
| `lora.targets` | `[q_proj, v_proj]` |

## Use it

With peft:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = "HuggingFaceTB/SmolLM2-135M-Instruct"
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "acme/capitals-lora")

messages = [{"role": "user", "content": "What is the capital of France?"}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
outputs = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(outputs[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

With vLLM, as a server:

```sh
vllm serve HuggingFaceTB/SmolLM2-135M-Instruct --enable-lora --lora-modules capitals-lora=acme/capitals-lora
```

With tune:

```sh
tune download acme/capitals-lora
tune download HuggingFaceTB/SmolLM2-135M-Instruct
tune run generate model=models/SmolLM2-135M-Instruct adapter=models/capitals-lora \
prompt="What is the capital of France?"
```

## Reproduce it

```sh
tune download HuggingFaceTB/SmolLM2-135M-Instruct --revision 12fd25f77366fa6b3b4b768ec3050bf629380bac
tune run lora_finetune model=SmolLM2-135M-Instruct data.path=capitals.jsonl
```

With python 3.11.7, torch 2.15.0.
""".replace("\\\np", "p")


def header(text: str) -> dict:
    """What the Hub reads."""
    return ModelCard(text).data.to_dict()


def changed(**fields) -> CardFacts:
    return msgspec.structs.replace(LORA, **fields)


def test_the_card_of_an_adapter_reads_like_this():
    assert model_card(LORA) == LORA_CARD


def test_what_is_not_known_is_left_out():
    text = model_card(CardFacts(name="m", method=None, by_tune=False, pipeline_tag=None))
    assert header(text) == {"library_name": "transformers"}
    assert "# m\n\nA language model.\n\n## Use it\n" in text
    assert "None" not in text
    assert "Training" not in text
    assert "Reproduce" not in text


def test_a_number_that_is_none_is_left_out():
    text = model_card(changed(final_loss=float("nan"), validation_loss=float("inf")))
    assert "loss |" not in text


@pytest.mark.parametrize(
    ("fields", "relation", "library", "says"),
    [
        ({"form": "adapter"}, "adapter", "peft", "A LoRA adapter for `b/m`, trained on `d`."),
        (
            {"form": "merged"},
            "finetune",
            "transformers",
            "`b/m`, fine-tuned with LoRA (rank 8, alpha 16) on `d`. The adapter is merged into the weights.",
        ),
        (
            {"form": "model", "method": "full", "rank": None, "alpha": None},
            "finetune",
            "transformers",
            "`b/m`, fine-tuned on `d`.",
        ),
        (
            {"form": "model", "method": "mine", "rank": None, "alpha": None},
            "finetune",
            "transformers",
            "with `mine` on",
        ),
    ],
    ids=["adapter", "merged", "full", "another recipe"],
)
def test_every_form_says_what_it_is(fields, relation, library, says):
    text = model_card(changed(base_model="b/m", data_name="d", **fields))
    assert (header(text)["base_model_relation"], header(text)["library_name"]) == (relation, library)
    assert says in text
    assert ("--enable-lora" in text) == (fields["form"] == "adapter")


def test_a_model_from_scratch_has_no_base():
    facts = CardFacts(name="m", method="scratch", data_name="d.jsonl", license="mit")
    text = model_card(facts)
    assert "A language model, trained from scratch on `d.jsonl`. Trained with `tune`." in text
    assert "| Method | from scratch, every weight |" in text
    assert header(text) == {
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["tune"],
    }


def test_a_base_that_is_a_folder_is_named_in_the_text_alone():
    text = model_card(changed(base_model=None, base_commit=None, base_name="my model"))
    assert "base_model" not in header(text)
    assert "A LoRA adapter for `my model`" in text
    assert 'base = "my model"' in text


def test_names_that_the_hub_would_refuse_stay_out_of_the_header():
    data = header(
        model_card(changed(base_model="/home/me/model", datasets=("a/b/c", "acme/data", "./x.jsonl")))
    )
    assert "base_model" not in data
    assert data["datasets"] == ["acme/data"]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (("llama3.2", None, None), ("llama3.2", None, None)),
        (("mit", "x", "LICENSE"), ("mit", None, None)),
        (("other", "Deep Seek!", "https://a.b/c"), ("other", "deep-seek", "https://a.b/c")),
        (
            ("other", "qwen-research", "LICENSE"),
            ("other", "qwen-research", "{endpoint}/b/m/blob/main/LICENSE"),
        ),
        (("Apache License 2.0", None, None), ("other", "apache-license-2.0", None)),
        ((None, "x", None), (None, None, None)),
    ],
)
def test_the_licence_is_the_bases_and_one_that_the_hub_knows(given, written):
    from huggingface_hub import constants

    facts = changed(
        base_model="b/m", base_commit=None, license=given[0], license_name=given[1], license_link=given[2]
    )
    data = header(model_card(facts))
    link = written[2] and written[2].format(endpoint=constants.ENDPOINT)
    assert (data.get("license"), data.get("license_name"), data.get("license_link")) == (*written[:2], link)


def test_a_licence_whose_text_is_a_file_of_an_unknown_base_names_no_file():
    facts = changed(base_model=None, license="other", license_name="x", license_link="LICENSE")
    assert "license_link" not in header(model_card(facts))


@pytest.mark.parametrize(("rank", "words"), [(8, None), (16, None), (17, "32"), (64, "64"), (100, "128")])
def test_vllm_is_told_of_a_rank_above_its_default(rank, words):
    text = model_card(changed(rank=rank))
    assert (f"--max-lora-rank {words}\n" in text) if words else ("--max-lora-rank" not in text)


def test_vllm_is_not_named_for_what_it_does_not_serve():
    assert "vLLM" not in model_card(changed(method="dora"))
    assert "vLLM" not in model_card(changed(rank=1024))


def test_files_for_llama_cpp_have_commands_that_take_them():
    facts = changed(form="model", gguf_file="m-q8_0.gguf", is_converted=True, prompt_format=None, prompt=None)
    text = model_card(facts)
    assert header(text)["library_name"] == "gguf"
    assert "llama-cli --hf-repo acme/capitals-lora --hf-file m-q8_0.gguf -p 'Once upon a time'\n" in text
    assert "tune download acme/capitals-lora --include m-q8_0.gguf\n" in text
    assert "model=models/capitals-lora-hf " in text
    assert "transformers" not in text
    assert "vLLM" not in text
    split = model_card(msgspec.structs.replace(facts, gguf_file="m-00001-of-00002.gguf"))
    assert "--include 'm-*-of-00002.gguf'\n" in split


def test_what_writes_no_text_is_not_asked_to():
    assert "Use it" not in model_card(changed(writes_text=False))


def test_a_prompt_is_put_as_in_training():
    text = model_card(changed(prompt_format="alpaca", prompt="Add.", prompt_text="### Instruction:\nAdd."))
    assert 'tokenizer("### Instruction:\\nAdd.", return_tensors="pt")' in text
    assert 'prompt_format=alpaca prompt="Add."' in text
    text = model_card(changed(prompt_format="raw", prompt="It's"))
    assert """prompt_format=raw prompt="It's\"""" in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.7, "4 seconds"), (600, "10 minutes"), (7 * 3600 + 120, "7 h 02 min")]
)
def test_durations_are_told_as_one_would(seconds, words):
    assert f"| Duration | {words} |" in model_card(changed(duration_s=seconds))


any_text = st.text(st.characters(), max_size=20) | st.sampled_from(
    [
        "no",
        "a: b",
        "- x",
        "'",
        '"',
        "a|b",
        "``` x",
        "`",
        "a\n---\nb",
        "\\",
        "<b>",
        "\x85\u2028",
        "\ud83d",
        "# x",
        "{a: &b",
    ]
)


@given(st.lists(any_text, max_size=4), any_text)
def test_the_header_gives_back_every_text(values, text):
    written = yaml_header({"text": text, "list": values, "none": None})
    block = written.removeprefix("---\n").removesuffix("---\n")
    expected = {"text": text, **({"list": values} if values else {})}
    whole = {key: re.sub("[\ud800-\udfff]", "\ufffd", repr(value)) for key, value in expected.items()}
    read = yaml.safe_load(block)
    assert read.keys() == whole.keys()
    surrogates = "".join([text, *values]).encode("utf-8", "replace") != "".join([text, *values]).encode(
        "utf-8", "surrogatepass"
    )
    assert surrogates or read == expected


@given(st.data())
def test_the_hub_reads_the_card_whatever_the_facts_hold(data):
    facts = msgspec.structs.replace(
        LORA,
        **{
            field: data.draw(any_text, label=field)
            for field in (
                "name",
                "method",
                "base_model",
                "license",
                "license_name",
                "hardware",
                "command",
                "prompt",
            )
        },
        form=data.draw(st.sampled_from(["model", "adapter", "merged"])),
        language=tuple(data.draw(st.lists(any_text, max_size=2))),
        tags=tuple(data.draw(st.lists(any_text, max_size=2))),
        settings=data.draw(st.dictionaries(any_text, any_text, max_size=2)),
        prompt_format=data.draw(st.sampled_from(["chat", "alpaca", "raw", None])),
    )
    text = model_card(facts)
    card = ModelCard(text)
    assert card.data.to_dict()["library_name"] == ("peft" if facts.form == "adapter" else "transformers")
    assert card.text.lstrip().startswith("# ")
    # As many cells as columns, and as many lines as rows: no value broke out of a table.
    rows = [line for line in card.text.split("\n") if line.startswith("| `")]
    assert len(rows) == len(facts.settings)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    block = re.search(r"^(`{3,})python\n(.*?)\n\1$", card.text, re.DOTALL | re.MULTILINE)
    assert block
    ast.parse(block[2].encode("utf-8", "replace").decode())


@pytest.mark.parametrize("text", ["a b", "`", "``x`", "a`b", "|", "a|b", "a\nb\tc", ""])
def test_code_shows_the_text_on_one_line(text):
    shown = code(text)
    assert "\n" not in shown
    fence = re.match("`+", shown)
    assert fence
    inner = shown[len(fence[0]) : -len(fence[0])].replace("\\|", "|")
    assert fence[0] not in inner
    assert inner.strip() == " ".join(text.split())


def test_no_line_of_code_ends_its_block():
    assert code_block("sh", "a\n```\nb") == "````sh\na\n```\nb\n````"


def test_plain_text_is_no_markup():
    assert plain("demo_full_finetune-8fba") == "demo_full_finetune-8fba"
    assert plain("*a* _b_ <c> [d](e) `f` a|b &amp; #1") == (
        r"\*a\* \_b\_ \<c\> \[d\](e) \`f\` a\|b \&amp; \#1"
    )


def test_commands_are_words_of_a_shell():
    text = model_card(changed(repository="acme/it's me", prompt='$HOME `ls` "x"'))
    commands = [line for line in text.split("\n") if line.startswith("tune ")]
    assert shlex.split(commands[0]) == ["tune", "download", "acme/it's me"]
    assert shlex.split(commands[2])[-1] == 'prompt=$HOME `ls` "x"'
