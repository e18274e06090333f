"""The Hub that other tests talk to stands up to the real client."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from hub.server import Hub

WEIGHTS = bytes(range(256)) * 4000


def test_uploaded_folder_comes_back_the_same(hub: Hub, tmp_path: Path):
    api = HfApi(endpoint=hub.url, token="hf_alice")
    folder = tmp_path / "model"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "config.json").write_text("{}")
    (folder / "deep/er/ü ñ#?%.txt").write_text("text")
    (folder / "empty.safetensors").touch()
    api.create_repo("acme/new")
    api.upload_folder(repo_id="acme/new", folder_path=folder)
    got = Path(snapshot_download("acme/new", local_dir=tmp_path / "got", endpoint=hub.url))
    for path in folder.rglob("*"):
        assert path.is_dir() or (got / path.relative_to(folder)).read_bytes() == path.read_bytes()
