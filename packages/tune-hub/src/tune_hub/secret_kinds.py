r"""What tokens, keys and passwords look like: one regular expression for each kind.

The part that is secret is the group `secret`, or else the whole match. Every match begins with one of a few
fixed texts: these are looked for first, which is far quicker than an expression tried at each place.

Source: the makers' own pages on the format of their credentials, among them "User access tokens" of the
Hub, "About authentication to GitHub", "Token overview" of GitLab, "IAM identifiers" of AWS, "Token types"
of Slack, "API keys" of Stripe, "About access tokens" of npm; RFC 7468 for PEM, RFC 7519 for JSON Web
Tokens, RFC 3986 section 3.2.1 for user information in URLs.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

# Where a token may begin: not inside a word; but behind `\n` or `\u00e9`, which JSON has for what is no word.
_BEGIN = r"(?:(?<![A-Za-z0-9_])|(?<=\\[nrt])|(?<=\\u[0-9A-Fa-f]{4}))"
# The same for what base64 can hold too, by chance.
_BEGIN_RARE = r"(?:(?<![A-Za-z0-9_+/-])|(?<=\\[nrt]))"
_END = r"(?![A-Za-z0-9])"
# `name: "`, `"name": "`, `name = '`, `--name `; with the quotes of JSON within JSON.
_IS = r"""\\*["']?\s*(?::=|=>|=(?!=)|:)\s*\\*["']?"""

_PLACEHOLDER = re.compile(
    r"example|placeholder|changeme|change_me|redacted|your[_-]?|my[_-]?(?:token|key|secret)|insert|dummy|x{4}|\*{3}"
    r"|\.{3}|1234567|abcdefg|^(?:user(?:name)?|pass(?:word)?|pwd|token|secret|key)$",
    re.IGNORECASE,
)
_WORDS = re.compile(r"(?:[A-Za-z]+\d{0,4}|\d+)(?:[-_./]+(?:[A-Za-z]+\d{0,4}|\d+))*[-_./]*")
_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_MIN_ENTROPY_BITS = 3.0
"""Of a character: 32 random hexadecimal digits have 3.6 or so. Words do too, and are known by _WORDS."""


class SecretKind(NamedTuple):
    """One kind of secret."""

    name: str
    """What messages call it."""
    pattern: re.Pattern[str]
    begins: tuple[str, ...]
    """What every match begins with, in small letters."""
    accepts: Callable[[str], bool]
    """Whether what was found is more than a placeholder."""


def is_varied(secret: str) -> bool:
    """Whether a text of the right shape can be real: no `hf_xxxx...`, no EXAMPLE."""
    return len(set(secret)) >= 8 and "EXAMPLE" not in secret


def is_random(value: str) -> bool:
    """Whether the value of something called a key is one, and no name, path, number or placeholder."""
    if len(value) < 16 or _is_path(value) or _PLACEHOLDER.search(value) or _WORDS.fullmatch(value):
        return False
    mixed = any(sign.isdigit() for sign in value) and any(sign.isalpha() for sign in value)
    counts = Counter(value)
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return mixed and entropy >= _MIN_ENTROPY_BITS


def is_password(value: str) -> bool:
    """Whether the value of something called a password is one; people choose them, so they are not random."""
    if _is_path(value) or _PLACEHOLDER.search(value) or _DOTTED_NAME.fullmatch(value):
        return False
    letters = any(sign.isalpha() for sign in value)
    return letters and any(not sign.isalpha() and sign not in "_-." for sign in value)


def _is_path(value: str) -> bool:
    return value.startswith(("/", "./", "../", "~")) or "://" in value


def _is_url_password(value: str) -> bool:
    return not _PLACEHOLDER.search(value)


def _shape(name: str, pattern: str, *begins: str, begin: str = _BEGIN, end: str = _END) -> SecretKind:
    """A kind that its own letters give away."""
    return SecretKind(name, re.compile(begin + pattern + end), begins, is_varied)


_NAMES = r"(?:api|secret|access|auth|encryption|signing)[_-]?key|secret"
# What tokenizers call their special tokens: no credentials.
_SPECIAL = (
    "bos",
    "eos",
    "unk",
    "pad",
    "sep",
    "cls",
    "mask",
    "image",
    "audio",
    "video",
    "start",
    "end",
    "special",
)
_NOT_SPECIAL = "".join(f"(?<!{name}_)" for name in _SPECIAL)

SECRET_KINDS: tuple[SecretKind, ...] = (
    SecretKind(
        "private key",
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:\s|\\+[nr])+"
            # the headers of encrypted and of PGP keys, then base64
            r"(?:[A-Z][A-Za-z-]+: [^\n\\]{0,200}(?:\s|\\+[nr])+){0,5}"
            r"[A-Za-z0-9+/=]{16,}(?:[A-Za-z0-9+/=\s]|\\+[nr])*"
            r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)?"
        ),
        ("-----begin",),
        is_varied,
    ),
    _shape("Hugging Face token", r"(?:hf|api_org)_(?:oauth_)?[A-Za-z0-9]{30,}", "hf_", "api_org_"),
    _shape("Anthropic key", r"sk-ant-[a-z0-9]+-[A-Za-z0-9_-]{24,}", "sk-ant-"),
    _shape("OpenAI key", r"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{32,}", "sk-"),
    _shape("OpenRouter key", r"sk-or-v\d-[0-9a-f]{32,}", "sk-or-"),
    _shape("OpenAI key", r"sk-[A-Za-z0-9]{32,}", "sk-"),
    _shape(
        "GitHub token",
        r"(?:gh[pousr]_[A-Za-z0-9_]{36,}|github_pat_[A-Za-z0-9_]{36,})",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
    ),
    _shape("GitLab token", r"gl(?:pat|dt|rt|ptt)-[A-Za-z0-9_.-]{20,}", "glpat-", "gldt-", "glrt-", "glptt-"),
    _shape("AWS key id", r"(?:AKIA|ASIA)[A-Z2-7]{16}", "akia", "asia", begin=_BEGIN_RARE),
    SecretKind(
        "AWS secret key",
        re.compile(
            rf"aws[_-]?(?:secret)?[_-]?(?:access)?[_-]?key{_IS}(?P<secret>[A-Za-z0-9/+]{{40}})(?![A-Za-z0-9/+=])",
            re.IGNORECASE,
        ),
        ("aws",),
        is_varied,
    ),
    _shape("Google key", r"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_+/=-])", "aiza", begin=_BEGIN_RARE),
    _shape("Google client secret", r"GOCSPX-[A-Za-z0-9_-]{28}", "gocspx-"),
    _shape(
        "Slack token",
        r"(?:xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{20,})",
        "xox",
        "xapp-",
    ),
    _shape("Slack webhook", r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/]{30,}", "hooks.slack.com"),
    _shape("Stripe key", r"[sr]k_live_[A-Za-z0-9]{16,}", "sk_live_", "rk_live_"),
    _shape("npm token", r"npm_[A-Za-z0-9]{36}", "npm_"),
    _shape("PyPI token", r"pypi-AgE[A-Za-z0-9_-]{50,}", "pypi-age"),
    _shape("Replicate token", r"r8_[A-Za-z0-9]{37}", "r8_"),
    _shape("Groq key", r"gsk_[A-Za-z0-9]{40,}", "gsk_"),
    _shape("NVIDIA key", r"nvapi-[A-Za-z0-9_-]{40,}", "nvapi-"),
    _shape("Weights & Biases key", r"wandb_v\d_[A-Za-z0-9_]{40,}", "wandb_v"),
    SecretKind(
        "Weights & Biases key",
        re.compile(
            rf"wandb(?:[_-]?(?:api[_-]?)?key{_IS}|\.login\(\s*(?:key\s*=\s*)?\\*[\"']|\s+login\s+(?:--\S+\s+)*)"
            r"(?P<secret>[0-9a-f]{40})(?![0-9a-f])",
            re.IGNORECASE,
        ),
        ("wandb",),
        is_varied,
    ),
    SecretKind(
        "Azure key",
        re.compile(r"(?:AccountKey|SharedAccessKey)=(?P<secret>[A-Za-z0-9+/]{43}(?:[A-Za-z0-9+/]{43}=)?=)"),
        ("accountkey", "sharedaccesskey"),
        is_varied,
    ),
    SecretKind(
        "Azure signature",
        re.compile(r"[?&]sig=(?P<secret>[A-Za-z0-9%+/]{40,}(?:%3D|=))", re.IGNORECASE),
        ("?sig=", "&sig="),
        is_varied,
    ),
    _shape(
        "JSON Web Token",
        r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
        "eyj",
        end=r"(?![A-Za-z0-9_-])",
    ),
    SecretKind(
        "password in a URL",
        re.compile(
            r"""://[^\s/:@?#"'`<>{}$\\]{0,100}:(?P<secret>[^\s/@"'`<>{}$\\]{3,200})@(?=[A-Za-z0-9.\[-])"""
            r"(?!(?:[\w-]+\.)*example\.(?:com|org|net))",  # reserved for documentation, RFC 2606
        ),
        ("://",),
        _is_url_password,
    ),
    SecretKind(
        "password",
        re.compile(
            r"machine\s+\S{1,200}\s+(?:login\s+\S{1,200}\s+)?password\s+(?P<secret>[^\s\"'\\<>{}$]{6,})",
            re.IGNORECASE,
        ),
        ("machine",),
        is_password,
    ),
    SecretKind(
        "token",
        re.compile(r"bearer\s+(?P<secret>[A-Za-z0-9_.=+/~-]{16,})", re.IGNORECASE),
        ("bearer",),
        is_random,
    ),
    SecretKind(
        "key or token",
        re.compile(
            rf"(?:{_NAMES}|{_NOT_SPECIAL}token){_IS}"
            r"(?P<secret>[A-Za-z0-9_.=+/~-]{16,}+)(?![(\[])",
            re.IGNORECASE,
        ),
        ("api", "secret", "access", "auth", "encryption", "signing", "token"),
        is_random,
    ),
    SecretKind(
        "password",
        re.compile(
            rf"(?:password|passwd|passphrase|(?<![A-Za-z])pwd){_IS}"
            r"""(?P<secret>[^\s"'`,;<>{}()\[\]$\\:=|][^\s"'`,;<>{}()\[\]$\\|]{5,200}+)(?![(\[])""",
            re.IGNORECASE,
        ),
        ("passw", "passphrase", "pwd"),
        is_password,
    ),
)
"""Those that say whose they are come first."""

DISTINCT_KINDS = tuple(kind for kind in SECRET_KINDS if kind.accepts is is_varied)
"""Those that their own letters give away, wherever they stand."""
