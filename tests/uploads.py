"""What the tests of uploads share: a small model, and an upload as alice."""

import os
from pathlib import Path

from hub.server import Hub
from tune_hub._upload import UploadResult, upload
from tune_hub.client import open_client
from tune_hub.upload_plan import plan_upload

WEIGHTS = [os.urandom(300_000) for _ in range(3)]
SHARDS = {f"model-{number}.safetensors": content for number, content in enumerate(WEIGHTS, 1)}
SMALL = {"config.json": b"{}", "README.md": b"---\nlicense: mit\n---\n# Tiny\n"}
MODEL = SMALL | SHARDS


def make(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def published(hub: Hub, repository: str, revision: str = "main") -> dict[str, bytes]:
    """What a repository holds, without what the Hub itself puts there."""
    files = hub.files(repository, revision)
    files.pop(".gitattributes", None)
    return files


def send(
    folder: Path, repository: str, *, token: str = "hf_alice", force: bool = False, **how
) -> UploadResult:
    client = open_client(token)
    message = how.pop("message", None)
    progress = how.pop("progress", None)
    plan = plan_upload(folder, repository, client=client, **how)
    return upload(plan, client=client, force=force, message=message, progress=progress)


def changes(hub: Hub) -> list[str]:
    """The requests that change something, or send content."""
    asked = [seen for seen in hub.requests if seen.method in ("PUT", "POST", "DELETE")]
    return [f"{seen.method} {seen.path}" for seen in asked if not seen.path.endswith("/paths-info/main")]
