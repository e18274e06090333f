"""Which small files belong to a model beside its weights, by the names that libraries and people give them.

Only these go along: what else stands beside a file of weights may be anything, and private.

Source: `get_relative_import_files` in transformers/dynamic_module_utils.py for code; `*_NAME` and
`VOCAB_FILES_NAMES` in transformers/tokenization_utils_base.py and the tokenizers of its models.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.plan import SideFile
from tune_checkpoint.planning import MAX_SIDE_BYTES, copied_file, is_object, read_json

CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"
LEGAL = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt", "USE_POLICY.md")
"""Files that go wherever the weights go."""

VOCABULARY = re.compile(
    r"tokenizer\.(json|model)|tokenizer\.model\.v\d+|tekken\.json|vocab\.(json|txt|bpe)|encoder\.json"
    r"|spiece\.model|sentencepiece(\.bpe)?\.model|(source|target)\.spm|bpe\.codes|[\w.-]+\.tiktoken"
    r"|tiktoken\.model"
)
"""Names of the files that hold a tokenizer's tokens."""
CHAT_TEMPLATES = frozenset({"chat_template.jinja", "chat_template.json"})
BESIDE_VOCABULARY = CHAT_TEMPLATES | {
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    TOKENIZER_CONFIG,
}
"""Files of a tokenizer that hold no vocabulary themselves."""
OTHERS = frozenset(
    {
        CONFIG,
        GENERATION_CONFIG,
        "MODEL_CARD.md",
        "README.md",
        "feature_extractor_config.json",
        "image_processor_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "quant_config.json",
        "quantize_config.json",
        "requirements.txt",
        "video_preprocessor_config.json",
        *BESIDE_VOCABULARY,
        *LEGAL,
    }
)
WITH_CODE = (
    CONFIG,
    TOKENIZER_CONFIG,
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""Files whose `auto_map` may name code."""
TEMPLATES = "additional_chat_templates"
"""A folder of them, each a `.jinja`."""

_IMPORTED = re.compile(r"^\s*from\s+\.(\w+)\s+import\s|^\s*from\s+\.\s+import\s+(\w+)", re.MULTILINE)


def find_companions(folder: Path) -> list[Path]:
    """The files of a model's folder that belong to it, except for weights, sorted by name."""
    code = set(_code_files(folder))
    found = [
        entry
        for entry in folder.iterdir()
        if entry.is_file() and (_is_known(entry.name) or entry.name in code)
    ]
    templates = folder / TEMPLATES
    found += [path for path in templates.glob("*.jinja") if path.is_file()] if templates.is_dir() else []
    return sorted(found)


def find_strangers(folder: Path, is_weights: Callable[[Path], bool]) -> list[str]:
    """Names of what stands in a model's folder, and is neither weights nor known to belong to it."""
    known = {*find_companions(folder)}
    templates = folder / TEMPLATES
    within = [*templates.iterdir()] if templates.is_dir() else []
    entries = [*within, *(entry for entry in folder.iterdir() if not within or entry != templates)]
    return sorted(
        str(entry.relative_to(folder)) for entry in entries if entry not in known and not is_weights(entry)
    )


def copied_companions(folder: Path, paths: Iterable[Path]) -> tuple[list[SideFile], list[str]]:
    """Files of a folder as they stand, and warnings of those that are too large for that.

    Raises:
        ReadFailedError: the system cannot read one.
    """
    files: list[SideFile] = []
    warnings: list[str] = []
    for path in paths:
        name = str(path.relative_to(folder))
        if (size := path.stat().st_size) > MAX_SIDE_BYTES:
            warnings.append(
                f"{name}: not copied: it has {size} bytes, and files beside the weights up to "
                f"{MAX_SIDE_BYTES} are; copy it yourself"
            )
        else:
            files.append(replace(copied_file(path), name=name))
    return files, warnings


def is_vocabulary(name: str) -> bool:
    """Whether a file of this name holds a tokenizer's tokens."""
    return VOCABULARY.fullmatch(name) is not None


def is_of_tokenizer(name: str) -> bool:
    """Whether a file of this name is one of those that make up a tokenizer."""
    return name in BESIDE_VOCABULARY or is_vocabulary(name)


def _is_known(name: str) -> bool:
    return name in OTHERS or is_vocabulary(name)


def _code_files(folder: Path) -> Iterator[str]:
    """The Python files that `auto_map` of a configuration names, and what these import beside them."""
    waiting = [name for config in WITH_CODE for name in _modules(_auto_map(folder / config))]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        path = folder / f"{module}.py"
        if module in seen or not path.is_file() or path.stat().st_size > MAX_SIDE_BYTES:
            continue
        seen.add(module)
        yield path.name
        text = copied_file(path).content.decode("utf-8", "replace")
        waiting += [match[1] or match[2] for match in _IMPORTED.finditer(text)]


def _auto_map(path: Path) -> object:
    with suppress(CorruptFileError, UnsupportedCheckpointError):
        return read_json(path).get("auto_map")
    return None


def _modules(value: object) -> Iterator[str]:
    """Names of modules in `{"AutoModel": "modeling_x.XModel", "AutoTokenizer": ["a.B", null]}`."""
    if isinstance(value, str):
        module = value.partition(".")[0]
        if re.fullmatch(r"\w+", module):  # what has `repository--` before it stands elsewhere
            yield module
    elif is_object(value) or isinstance(value, list):
        inner = value.values() if is_object(value) else cast("list[Any]", value)
        for item in inner:
            yield from _modules(item)
