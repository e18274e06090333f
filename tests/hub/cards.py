"""The YAML header of a model card: what it says, and what the Hub does not accept in it.

Source: https://huggingface.co/docs/hub/model-cards#model-card-metadata and
https://huggingface.co/docs/hub/repositories-licenses.
"""

import json
import re
from typing import Any, NamedTuple

import yaml

_HEADER = re.compile(r"\A---\s*\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
_REPOSITORY = re.compile(r"([\w.-]+/)?[\w.-]+")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]+)?|code|multilingual")
_LICENSES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research
intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c
mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 open-mdw openmdw-1.0 openrail openrail++ osl-3.0 other pddl
postgresql unknown unlicense wtfpl zlib
"""


class Verdict(NamedTuple):
    """What the Hub says of a card."""

    errors: list[str]
    warnings: list[str]

    def as_json(self) -> dict[str, list[dict[str, str]]]:
        """As `/api/validate-yaml` answers."""
        return {name: [{"message": text} for text in texts] for name, texts in self._asdict().items()}


def judge(card: str) -> Verdict:
    """Say what is wrong with a card."""
    header = _HEADER.search(card.replace("\r\n", "\n"))
    if header is None:
        return Verdict([], ["empty or missing yaml metadata in repo card"])
    try:
        data = yaml.safe_load(header[1])
    except yaml.YAMLError as error:
        return Verdict([f"YAML Metadata Error: {error}"], [])
    if not isinstance(data, dict):
        return Verdict(["YAML Metadata Error: the metadata must be a mapping"], [])
    return Verdict(_mistakes(data), [])


def read_header(card: str) -> dict[str, Any]:
    """Return the header of a card; nothing if it has none, or a broken one."""
    header = _HEADER.search(card.replace("\r\n", "\n"))
    try:
        data = yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError:
        return {}
    # YAML knows dates, JSON does not.
    return json.loads(json.dumps(data, default=str)) if isinstance(data, dict) else {}


def tags(header: dict[str, Any]) -> list[str]:
    """Return the tags that the Hub gives a repository for its card."""
    found = [str(tag) for tag in _listed(header.get("tags"))]
    found += [str(header[key]) for key in ("library_name", "pipeline_tag") if key in header]
    found += [str(language) for language in _listed(header.get("language"))]
    for key, prefix in (("license", "license"), ("base_model", "base_model"), ("datasets", "dataset")):
        found += [f"{prefix}:{value}" for value in _listed(header.get(key))]
    return found


def _mistakes(header: dict[str, Any]) -> list[str]:
    mistakes: list[str] = []
    for value in _listed(header.get("license")):
        if value not in (known := _LICENSES.split()):
            mistakes.append(f'"license" must be one of [{", ".join(known)}]')
    for key, allowed in (("base_model", _REPOSITORY), ("datasets", _REPOSITORY), ("language", _LANGUAGE)):
        for value in _listed(header.get(key)):
            if not isinstance(value, str):
                mistakes.append(f'"{key}" must be a string')
            elif not allowed.fullmatch(value):
                mistakes.append(f'"{key}" with value "{value}" is not valid')
    if not all(isinstance(tag, str) for tag in _listed(header.get("tags"))):
        mistakes.append('"tags" must be a list of strings')
    mistakes += [
        f'"{key}" must be a string'
        for key in ("library_name", "pipeline_tag", "license_name", "license_link")
        if not isinstance(header.get(key, ""), str)
    ]
    return mistakes


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
