"""What must not be published is found, and nothing else is."""

import json
import pickle
import random
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_hub import secrets
from tune_hub.errors import DiskError
from tune_hub.secret_kinds import is_password, is_random
from tune_hub.secrets import find_secrets, redacted
from tune_recipes.catalog import ROOT

LETTERS = string.ascii_letters + string.digits
URL_SAFE = LETTERS + "-_"
BASE64 = LETTERS + "+/"
HEX = "0123456789abcdef"
BASE32 = string.ascii_uppercase + "234567"

# Kind, and the shape: `{ALPHABET:LENGTH}` is so many random characters. Put together here, so that nobody who
# scans this file takes the examples for real ones.
SHAPES = [
    ("Hugging Face token", "hf" + "_{LETTERS:34}"),
    ("Hugging Face token", "api_org" + "_{LETTERS:34}"),
    ("Anthropic key", "sk-ant-" + "api03-{URL_SAFE:93}AA"),
    ("OpenAI key", "sk-" + "{LETTERS:20}T3BlbkFJ{LETTERS:20}"),
    ("OpenAI key", "sk-" + "proj-{URL_SAFE:74}T3BlbkFJ{LETTERS:74}"),
    ("OpenAI key", "sk-" + "svcacct-{URL_SAFE:74}T3BlbkFJ{LETTERS:74}"),
    ("OpenRouter key", "sk-" + "or-v1-{HEX:64}"),
    *(("GitHub token", f"gh{which}" + "_{LETTERS:36}") for which in "pousr"),
    ("GitHub token", "github" + "_pat_{LETTERS:22}_{LETTERS:59}"),
    ("GitLab token", "glpat" + "-{URL_SAFE:19}Z"),
    ("AWS key id", "AK" + "IA{BASE32:16}"),
    ("AWS key id", "AS" + "IA{BASE32:16}"),
    ("AWS secret key", "aws_secret_access_key = {BASE64:40}"),
    ("AWS secret key", 'AWS_SECRET_ACCESS_KEY="{BASE64:40}"'),
    ("Google key", "AI" + "za{LETTERS:35}"),
    ("Google client secret", "GOC" + "SPX-{LETTERS:28}"),
    ("Slack token", "xox" + "b-{HEX:12}-{HEX:12}-{LETTERS:24}"),
    ("Slack token", "xox" + "p-{HEX:12}-{HEX:12}-{LETTERS:24}"),
    ("Slack webhook", "https://hooks.slack.com/" + "services/T{BASE32:8}/B{BASE32:10}/{LETTERS:24}"),
    ("Stripe key", "sk" + "_live_{LETTERS:24}"),
    ("Stripe key", "rk" + "_live_{LETTERS:24}"),
    ("npm token", "npm" + "_{LETTERS:36}"),
    ("PyPI token", "pypi-" + "AgEIcHlwaS5vcmc{URL_SAFE:80}x"),
    ("Replicate token", "r8" + "_{LETTERS:37}"),
    ("Groq key", "gsk" + "_{LETTERS:52}"),
    ("NVIDIA key", "nvapi" + "-{URL_SAFE:63}x"),
    ("Weights & Biases key", "WANDB_API_KEY={HEX:40}"),
    ("Weights & Biases key", 'wandb_key: "{HEX:40}"'),
    ("Weights & Biases key", "wandb login {HEX:40}"),
    ("Weights & Biases key", "wandb login --relogin {HEX:40}"),
    ("Weights & Biases key", 'wandb.login(key="{HEX:40}")'),
    ("password", "machine api.wandb.ai login user password {HEX:40}"),
    ("Azure key", "AccountName=a;Account" + "Key={BASE64:86}==;EndpointSuffix=core.windows.net"),
    ("Azure signature", "https://a.blob.core.windows.net/c?sv=2024-01-01&sig={LETTERS:43}%3D"),
    ("JSON Web Token", "ey" + "J{URL_SAFE:30}.ey" + "J{URL_SAFE:60}.{URL_SAFE:42}x"),
    (
        "private key",
        "-----BEGIN " + "RSA PRIVATE KEY-----\n{BASE64:64}\n{BASE64:64}\n-----END RSA PRIVATE KEY-----",
    ),
    ("private key", "-----BEGIN " + "PRIVATE KEY-----\r\n{BASE64:64}\r\n-----END PRIVATE KEY-----"),
    (
        "private key",
        "-----BEGIN "
        + "OPENSSH PRIVATE KEY-----\n{BASE64:70}\n{BASE64:22}==\n-----END OPENSSH PRIVATE KEY-----",
    ),
    ("private key", '"-----BEGIN ' + 'PRIVATE KEY-----\\n{BASE64:64}\\n-----END PRIVATE KEY-----\\n"'),
    (
        "private key",
        "-----BEGIN "
        "RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,{HEX:32}\n\n"
        "{BASE64:64}\n-----END RSA PRIVATE KEY-----",
    ),
    ("password in a URL", "https://me:{LETTERS:12}@git.acme.org/x.git"),
    ("password in a URL", "redis://:{LETTERS:12}@cache:6379/0"),
    ("password in a URL", "postgresql+asyncpg://me:{LETTERS:9}@localhost/db"),
    ("token", "Authorization: Bearer 7{LETTERS:32}"),
    ("key or token", "api_key: 7{LETTERS:32}"),
    ("key or token", "apiKey={HEX:32}"),
    ("key or token", '"client_secret": "7{LETTERS:32}"'),
    ("key or token", '\\"auth_token\\": \\"7{LETTERS:32}\\"'),
    ("key or token", "TOKEN='{HEX:8}-{HEX:4}-{HEX:4}-{HEX:4}-{HEX:12}'"),
    ("password", "password: {LETTERS:10}9!a"),
    ("password", '"db_passwd": "{LETTERS:10}9!a"'),
]


def example(shape: str, seed: int) -> str:
    """Fill a shape with random characters."""
    chance = random.Random(seed)

    def letters(match: re.Match[str]) -> str:
        return "".join(chance.choices(globals()[match[1]], k=int(match[2])))

    return re.sub(r"\{(\w+):(\d+)\}", letters, shape)


def found(text: str, folder: Path) -> list[tuple[int, str]]:
    """Line and kind of what is found in a file with this text."""
    (folder / "file").write_text(text, encoding="utf-8")
    return [(secret.line, secret.kind) for secret in find_secrets(folder / "file")]


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_every_documented_shape_is_found(kind, shape, tmp_path):
    for seed in range(20):
        line = shape.startswith("-----BEGIN") and "\n" in shape
        prefix, suffix = ("", "") if line else ('x = ["', '", 1]')
        text = f"first\n\n{prefix}{example(shape, seed)}{suffix}\nlast\n"
        assert (3, kind) in found(text, tmp_path), text


@given(
    before=st.text(max_size=30),
    after=st.text(max_size=30),
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 10**6),
)
def test_a_redacted_text_holds_no_secret_and_all_of_the_rest(before, after, shape, seed):
    secret = example(shape[1], seed)
    text = f"{before} {secret}\n{after}"
    clean = redacted(text)
    assert f"<redacted: {shape[0]}>" in clean
    assert redacted(clean) == clean
    assert clean.startswith(before)
    assert clean.endswith(after)
    drawn = [word for word in re.findall(r"\w{12,}", secret) if word not in shape[1]]
    assert not any(word in clean for word in drawn)


@pytest.mark.parametrize(
    "spell", [json.dumps, lambda text: json.dumps(json.dumps(text))], ids=["json", "twice"]
)
@pytest.mark.parametrize("before", ["line\n", "tab\t", "café", "é\n\r\n"])
def test_a_token_behind_an_escape_of_json_is_found(spell, before, tmp_path):
    assert found(spell(before + example(SHAPES[0][1], 1)), tmp_path) == [(1, "Hugging Face token")]


def test_only_four_characters_are_shown(tmp_path):
    token = example(SHAPES[0][1], 3)
    (tmp_path / "config.json").write_text(f'{{\n"token": "{token}"}}')
    (secret,) = find_secrets(tmp_path)
    assert secret == secrets.Secret(str(tmp_path / "config.json"), 2, "Hugging Face token", f"{token[:4]}...")


def test_a_folder_is_read_to_its_depths_whatever_the_files_are_called(tmp_path):
    token = example(SHAPES[0][1], 4)
    for name in ("a/b/c", ".env", "notes.ipynb", "weights.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"key {token}")
    names = [Path(secret.path).relative_to(tmp_path).as_posix() for secret in find_secrets(tmp_path)]
    assert names == [".env", "notes.ipynb", "weights.safetensors", "a/b/c"]
    assert len(find_secrets([tmp_path / ".env", tmp_path / "a"])) == 2


def test_what_is_no_text_is_passed_over(tmp_path):
    token = example(SHAPES[0][1], 5).encode()
    (tmp_path / "model.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{}" + token)
    (tmp_path / "link to nowhere").symlink_to(tmp_path / "gone")
    assert find_secrets(tmp_path) == ()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("shape", [SHAPES[0], ("AWS key id", "AK" + "IA{BASE32:16}"), SHAPES[4]])
def test_a_pickle_of_arguments_is_looked_through(protocol, shape, tmp_path):
    token = example(shape[1], 5)
    with (tmp_path / "args.bin").open("wb") as file:
        pickle.dump({"steps": 2.0, "hub_token": token, "home": "x" * 9}, file, protocol)
        file.write(b"\0" * 9)
    assert [(secret.kind, secret.shown) for secret in find_secrets(tmp_path)] == [
        (shape[0], f"{token[:4]}...")
    ]


def test_a_large_file_that_is_no_text_is_passed_over(tmp_path):
    (tmp_path / "model.bin").write_bytes(bytes(8 << 20) + example(SHAPES[0][1], 5).encode())
    assert find_secrets(tmp_path) == ()


def test_random_numbers_hold_no_secret(tmp_path):
    (tmp_path / "numbers.bin").write_bytes(b"\0" + random.Random(0).randbytes(1 << 20))
    assert find_secrets(tmp_path) == ()


def test_text_in_other_encodings_is_read(tmp_path):
    text = f"größe\n{example(SHAPES[0][1], 6)}\n"
    for encoding in ("latin-1", "utf-16", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32"):
        (tmp_path / encoding).write_bytes(text.encode(encoding))
    assert [secret.line for secret in find_secrets(tmp_path)] == [2] * 6
    (tmp_path / "utf-32").unlink()
    (tmp_path / "utf-32").write_bytes(text.encode("utf-32-le"))
    assert len(find_secrets(tmp_path / "utf-32")) == 1


def test_a_letter_that_grows_when_it_is_made_small_shifts_nothing(tmp_path):
    text = "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}" * 50 + "\n" + example(SHAPES[0][1], 6)
    assert found(text, tmp_path) == [(2, "Hugging Face token")]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(DiskError, match=r"gone: cannot be read to look for secrets: No such file"):
        find_secrets(tmp_path / "gone")


@pytest.mark.parametrize("newline", ["\n", " "])
@pytest.mark.parametrize(
    ("kind", "shape"), [SHAPES[0], SHAPES[3], ("key or token", "api_key: 7{LETTERS:32}")]
)
def test_no_end_of_a_block_hides_a_secret_or_tells_it_twice(kind, shape, newline, tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "_BLOCK_BYTES", 4096)
    monkeypatch.setattr(secrets, "_LONGEST", 512)
    monkeypatch.setattr(secrets, "_CONTEXT", 64)
    for offset in range(3400, 4200, 7):
        text = "é" + newline * (offset - 1) + example(shape, offset) + newline * 6000
        line = offset if newline == "\n" else 1
        assert found(text, tmp_path) == [(line, kind)]


def test_one_huge_line_is_read_in_bounded_memory(tmp_path):
    import tracemalloc

    with (tmp_path / "huge.json").open("w") as file:
        for _ in range(40):
            file.write("lorem ipsum " * (1 << 16))
        file.write(example(SHAPES[0][1], 7))
    tracemalloc.start()
    assert len(find_secrets(tmp_path)) == 1
    assert tracemalloc.get_traced_memory()[1] < 12 << 20  # of 31 MB
    tracemalloc.stop()


def test_a_private_key_that_breaks_off_is_one_all_the_same(tmp_path):
    assert found("-----BEGIN " + example("EC PRIVATE KEY-----\n{BASE64:64}\n{BASE64:9}", 8), tmp_path) == [
        (1, "private key")
    ]


SILENT = [
    '{"bos_token": "<|begin_of_text|>", "pad_token": "<|finetune_right_pad_id|>", "token": "<s>"}',
    '"eos_token": "reserved_special_token_250A1b2C3d4E5f6"',
    '{"password":12345,"_token":4567,"Ġsecret":99,"api_key=":123456789,"://user:pass@":3}',
    "t oken\nsec ret\npass word\ntoken :",
    "{%- set token = message['content'] %}{{ bos_token + 'Today Date: 26 Jul 2024' }}",
    "commit 3c2f8a9be01d4d5f6a7b8c9d0e1f2a3b4c5d6e7f",
    '"git_commit": "3c2f8a9be01d4d5f6a7b8c9d0e1f2a3b4c5d6e7f-dirty"',
    '"sha256": "8ea3d353c2ef3c783f17c95171298d68a1fe97ac0d3f71c8e44c685beaf9095b"',
    "WANDB_COMMIT=3c2f8a9be01d4d5f6a7b8c9d0e1f2a3b4c5d6e7f",
    "export HF_TOKEN=hf_...; export OPENAI_API_KEY=sk-...",
    "token: hf_" + "x" * 34,
    "hf_" + "your_token_here" * 3,
    "AKIA" + "IOSFODNN7EXAMPLE",
    "api_key: ${API_KEY}\ntoken: $HF_TOKEN\npassword: <your password>\nsecret: {{ secrets.DEPLOY_KEY_2 }}",
    'api_key = os.environ["OPENAI_API_KEY2"]\ntoken = get_token(user1)\npassword=getpass.getpass2("x")',
    "password == b64encode(x1)\npassword=None\npassword: str | None = None\ntoken=tokenizer.eos_token_id",
    "https://user:password@example.com https://host:8080/path@v1 http://a.b/c:d git@github.com:org/repo.git",
    "https://jo:a%20s3cret@www.example.com https://abc:xyz@example.org:8080/x",
    "token: /home/me/.cache/huggingface/token_v2\nPWD=/home/user1/project",
    "token: runs/20261125-111951-demo_full_finetune/final",
    "secret: my_secret_key_number_12",
    "a risk-averse_task-" + "a1b2c3d4" * 5,
    "-----BEGIN PRIVATE KEY----- is how such a file begins",
    "-----BEGIN CERTIFICATE-----\n" + example("{BASE64:64}", 1),
    "-----BEGIN PUBLIC KEY-----\n" + example("{BASE64:64}", 2),
    '"image/png": "iVBORw0KGgo' + example("{BASE64:4000}", 3) + 'AKIA"',
]


@pytest.mark.parametrize("text", SILENT)
def test_what_only_looks_alike_is_passed_over(text, tmp_path):
    assert found(text, tmp_path) == []
    assert redacted(text) == text


def test_base64_and_hashes_are_silent(tmp_path):
    chance = random.Random(0)
    for seed in range(30):
        blob = "".join(chance.choices(BASE64, k=20_000))
        assert found(f'"data": "{blob}=="\n{example("{HEX:40} {HEX:64}", seed)}', tmp_path) == []


def test_what_ships_with_tune_and_its_tokenizer_is_silent():
    assert find_secrets([ROOT / "builtin", ROOT / "configs", ROOT / "recipes"]) == ()


def test_our_own_source_is_silent():
    root = Path(__file__).parents[3]
    assert find_secrets([root / name for name in ("packages", "docs", "README.md")]) == ()


@pytest.mark.parametrize(
    "value", ["a1b2c3d4e5f6a7b8", "Zx9-Qw8_Er7.Ty6~Ui5", "0123456789abcdef0f1e2d3c4b5a6978"]
)
def test_random_values_are_told_from_words(value):
    assert is_random(value) is ("1234567" not in value)


@pytest.mark.parametrize(
    ("value", "is_one"), [("hunter2", True), ("p@ss-w0rd", True), ("changeme1", False), ("a.b2", False)]
)
def test_passwords_need_not_be_random(value, is_one):
    assert is_password(value) is is_one
