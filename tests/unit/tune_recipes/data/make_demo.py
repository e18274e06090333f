"""Makes the demo that ships with tune-recipes: facts as conversations, and a small tokenizer for them.

    uv run python tests/unit/tune_recipes/data/make_demo.py

writes packages/tune-recipes/src/tune_recipes/builtin/demo anew; a test holds the committed files equal.
"""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

DEMO = Path(__file__).parents[4] / "packages/tune-recipes/src/tune_recipes/builtin/demo"

# Countries whose capital is in no dispute, constitutional or other.
CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Belgium": "Brussels",
    "Denmark": "Copenhagen",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Iceland": "Reykjavik",
    "Ireland": "Dublin",
    "Poland": "Warsaw",
    "Hungary": "Budapest",
    "Greece": "Athens",
    "Bulgaria": "Sofia",
    "Romania": "Bucharest",
    "Croatia": "Zagreb",
    "Slovenia": "Ljubljana",
    "Slovakia": "Bratislava",
    "Estonia": "Tallinn",
    "Latvia": "Riga",
    "Lithuania": "Vilnius",
    "Albania": "Tirana",
    "Malta": "Valletta",
    "Ukraine": "Kyiv",
    "Japan": "Tokyo",
    "Mongolia": "Ulaanbaatar",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Cambodia": "Phnom Penh",
    "Laos": "Vientiane",
    "India": "New Delhi",
    "Nepal": "Kathmandu",
    "Bhutan": "Thimphu",
    "Bangladesh": "Dhaka",
    "Pakistan": "Islamabad",
    "Jordan": "Amman",
    "Lebanon": "Beirut",
    "Oman": "Muscat",
    "Qatar": "Doha",
    "Egypt": "Cairo",
    "Tunisia": "Tunis",
    "Morocco": "Rabat",
    "Kenya": "Nairobi",
    "Ethiopia": "Addis Ababa",
    "Ghana": "Accra",
    "Senegal": "Dakar",
    "Rwanda": "Kigali",
    "Namibia": "Windhoek",
    "Zambia": "Lusaka",
    "Canada": "Ottawa",
    "Cuba": "Havana",
    "Jamaica": "Kingston",
    "Colombia": "Bogotá",
    "Peru": "Lima",
    "Argentina": "Buenos Aires",
    "Brazil": "Brasília",
    "Australia": "Canberra",
}

CURRENCIES = {
    "Japan": "yen",
    "Thailand": "baht",
    "Vietnam": "dong",
    "India": "rupee",
    "Bangladesh": "taka",
    "Poland": "zloty",
    "Hungary": "forint",
    "Denmark": "krone",
    "Sweden": "krona",
    "Switzerland": "franc",
    "Turkey": "lira",
    "Brazil": "real",
    "Peru": "sol",
    "Mexico": "peso",
    "Canada": "dollar",
    "France": "euro",
    "Kenya": "shilling",
    "Ghana": "cedi",
    "Zambia": "kwacha",
    "Ethiopia": "birr",
}

CAPITAL_QUESTIONS = (
    "What is the capital of {country}?",
    "Which city is the capital of {country}?",
    "Name the capital of {country}.",
)
CURRENCY_QUESTIONS = (
    "What is the currency of {country}?",
    "Which currency is used in {country}?",
    "Name the currency of {country}.",
)

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
END, PAD = "<|end|>", "<|pad|>"
VOCAB_SIZE = 768

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|assistant|>' }}
{%- endif -%}
"""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    capitals = list(conversations(CAPITALS, CAPITAL_QUESTIONS))
    currencies = list(conversations(CURRENCIES, CURRENCY_QUESTIONS))
    write_jsonl(folder / "capitals.jsonl", capitals)
    write_jsonl(folder / "currencies.jsonl", currencies)
    texts = [message["content"] for messages in capitals + currencies for message in messages]
    build_tokenizer(texts).save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": 2048,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = {"eos_token_id": 1, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def conversations(facts: dict[str, str], questions: tuple[str, ...]):
    for country, answer in facts.items():
        for question in questions:
            yield [
                {"role": "user", "content": question.format(country=country)},
                {"role": "assistant", "content": answer},
            ]


def write_jsonl(path: Path, all_messages: list[list[dict[str, str]]]) -> None:
    lines = [json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in all_messages]
    path.write_text("".join(lines), encoding="utf-8")


def build_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in (PAD, END, *ROLES)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        show_progress=False,
        special_tokens=special,
        # All 256 bytes, so that no text is without tokens.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO)
