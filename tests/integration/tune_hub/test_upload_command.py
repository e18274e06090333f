"""`tune upload`: what it looks at, prints and ends with, against a Hub over HTTP."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, snapshot_download

from adapter_files import lora, write_adapter
from hub.server import Hub, wait_for
from small_llama import small_weights, write_folder
from support import TINY, TUNE, RunTune

FILES = ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def alice(hub: Hub, set_environment, tune_here: RunTune) -> RunTune:
    """Run a command as alice, in an empty folder."""
    set_environment(HF_TOKEN="hf_alice")
    return tune_here


@pytest.fixture
def model(alice: RunTune) -> Path:
    return write_folder(Path("model"), small_weights())


def card_of(hub: Hub, repository: str) -> ModelCard:
    return ModelCard(hub.files(repository)["README.md"].decode())


def test_a_run_goes_up_with_a_card_and_comes_back_the_same(hub: Hub, alice: RunTune, tmp_path: Path):
    trained = alice("run", "full_finetune", "--config", "demo_full_finetune", *TINY, "max_steps=2")
    assert trained.code == 0, trained.err
    said = alice("upload", trained.run_folder, "tiny", "--private")
    assert (said.code, said.err) == (0, "")
    first, second, last = said.out.splitlines()
    assert first == "Successfully authenticated! (as alice)"
    assert second.startswith("Uploaded 7 files, ")
    assert last == f"You can find your model at {hub.url}/alice/tiny"
    assert hub.repo("alice/tiny").private
    card = card_of(hub, "alice/tiny")
    card.validate()
    assert card.data.get("library_name") == "transformers"
    assert "alice/tiny" in card.text
    got = Path(snapshot_download("alice/tiny", local_dir=tmp_path / "got", token="hf_alice"))
    final = trained.run_folder / "final"
    assert not (final / "README.md").exists()
    for path in final.iterdir():
        assert (got / path.name).read_bytes() == path.read_bytes()

    hub.clear_log()
    again = alice("upload", trained.run_folder, "tiny")
    assert again.out.splitlines()[1:] == [
        "Nothing to upload: alice/tiny holds all 7 files as they are here",
        last,
    ]
    assert hub.asked(method="PUT") + hub.asked("/commit/") == []


def test_a_card_that_is_there_is_kept(hub: Hub, alice: RunTune, model: Path):
    (model / "README.md").write_text("# Mine\n")
    assert alice("upload", model, "tiny").code == 0
    assert hub.files("alice/tiny")["README.md"] == b"# Mine\n"


def test_a_card_that_only_the_repository_has_is_kept_even_if_forced(hub: Hub, alice: RunTune, model: Path):
    hub.add("alice/tiny", {"README.md": "# Theirs\n"})
    assert alice("upload", model, "tiny").code == 0
    assert hub.files("alice/tiny")["README.md"] == b"# Theirs\n"
    said = alice("upload", model, "tiny", "-f")
    assert "Kept the repository's own README.md\n" in said.out
    assert hub.files("alice/tiny")["README.md"] == b"# Theirs\n"
    (model / "config.json").write_text("{ }")
    listed = alice("upload", model, "tiny", "-f", "--dry-run").out
    assert {line.split()[-1]: line.split()[0] for line in listed.splitlines()[2:4]} == {
        "README.md": "kept",
        "config.json": "changed",
    }
    (model / "README.md").write_text("# Mine\n")
    assert alice("upload", model, "tiny", "-f", "--dry-run").out.count("changed") == 2


def test_a_dry_run_says_what_would_change_and_changes_nothing(hub: Hub, alice: RunTune, model: Path):
    hub.add("acme/tiny", {"config.json": "theirs", "tokenizer.json": (model / "tokenizer.json").read_bytes()})
    said = alice("upload", model, "acme/tiny", "--dry-run")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[1] == "acme/tiny (public)"
    states = {line.split()[-1]: line.split()[0] for line in lines[2:6]}
    assert states == {
        "README.md": "new",
        "config.json": "changed",
        "model.safetensors": "new",
        "tokenizer.json": "same",
    }
    assert lines[6].startswith("3 of 4 files to upload, ")
    assert lines[7] == "1 would be overwritten, which needs -f"
    plan = json.loads(alice("upload", model, "acme/new", "--dry-run", "--json", "--private").out)
    assert (plan["repository"], plan["exists"], plan["private"]) == ("acme/new", False, True)
    assert [file["state"] for file in plan["files"]] == ["new"] * 4
    assert {seen.path for seen in hub.requests if seen.method != "GET"} == {"/api/validate-yaml"}
    assert not hub.has("acme/new")


def test_overwriting_ends_with_2_and_a_list_and_is_done_with_force(hub: Hub, alice: RunTune, model: Path):
    hub.add("acme/tiny", {"config.json": "theirs"})
    said = alice("upload", model, "acme/tiny")
    assert said.code == 2
    assert "acme/tiny: the upload would overwrite 1 of its files:\n  config.json\n" in said.err
    assert alice("upload", model, "acme/tiny", "--force", "--message", "Mine").code == 0
    assert hub.files("acme/tiny")["config.json"] == (model / "config.json").read_bytes()
    assert hub.commits("acme/tiny")[0].title == "Mine"


def test_a_pull_request_and_a_branch_are_said(hub: Hub, alice: RunTune, model: Path):
    hub.add("bob/tiny", {"config.json": "theirs"})
    said = alice("upload", model, "bob/tiny", "--create-pr")
    assert said.out.splitlines()[-1] == f"You can find your pull request at {hub.url}/bob/tiny/discussions/1"
    said = alice("upload", model, "tiny", "--revision", "dev")
    assert said.out.splitlines()[-1] == f"You can find your model at {hub.url}/alice/tiny/tree/dev"


def test_a_branch_that_is_made_of_what_is_there_is_said(hub: Hub, alice: RunTune, model: Path):
    assert alice("upload", model, "tiny").code == 0
    said = alice("upload", model, "tiny", "--revision", "v1")
    assert said.out.splitlines()[1] == "Made the branch v1; alice/tiny holds all files already"
    assert "v1" in hub.repo("alice/tiny").branches


def test_the_result_is_json_and_nothing_else(hub: Hub, alice: RunTune, model: Path):
    result = json.loads(alice("upload", model, "tiny", "--json").out)
    assert result["url"] == f"{hub.url}/alice/tiny"
    assert result["files"] == ["README.md", *FILES]
    assert not result["no_op"]


def test_an_adapter_goes_up_with_its_base_named_as_others_can_load_it(hub: Hub, alice: RunTune, model: Path):
    record = {"repository": "acme/base", "commit": "0" * 40, "files": {}}
    (model / ".tune-download.json").write_text(json.dumps(record))
    adapter = write_adapter(
        Path("adapter"),
        lora("model.layers.0.self_attn.q_proj"),
        base_model_name_or_path=str(model.resolve()),
    )
    said = alice("upload", adapter, "tiny")
    assert said.code == 0, said.err
    files = hub.files("alice/tiny")
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "acme/base"
    assert card_of(hub, "alice/tiny").data.get("base_model") == "acme/base"
    assert not any(str(model.resolve()).encode() in content for content in files.values())


@pytest.mark.parametrize("name", ["acme/base", "models/base"])
def test_the_hub_is_asked_whether_it_has_the_base(hub: Hub, alice: RunTune, name: str):
    hub.add("acme/base", {"config.json": "{}"})
    module = "model.layers.0.self_attn.q_proj"
    said = alice("upload", write_adapter(Path("adapter"), lora(module), base_model_name_or_path=name), "tiny")
    if name == "acme/base":
        assert said.code == 0, said.err
        return
    assert said.code == 2
    assert f"names {name} as its base model: no folder here, and no repository of {hub.url}" in said.err
    assert all(seen.method == "GET" for seen in hub.requests)


@pytest.mark.parametrize("what", ["secret", "damage", "base", "name", "missing", "no model"])
def test_what_must_not_be_published_is_refused_before_the_first_byte(
    hub: Hub, alice: RunTune, model: Path, what: str
):
    words: list[str | Path] = [model, "tiny"]
    if what == "secret":
        (model / "notes.md").write_text("hf_" + "aB3dE5gH7jK9" * 3)
    elif what == "damage":
        os.truncate(model / "model.safetensors", 5000)
    elif what == "base":
        words[0] = write_adapter(Path("adapter"), lora("model.layers.0.self_attn.q_proj"))
    elif what == "name":
        words[1] = "not a name"
    elif what == "missing":
        words[0] = "nowhere"
    else:
        (model / "model.safetensors").unlink()
    said = alice("upload", *words)
    assert said.code == (1 if what == "damage" else 2)
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    assert {seen.path for seen in hub.requests if seen.method != "GET"} <= {"/api/validate-yaml"}


def test_without_a_name_and_a_terminal_one_is_proposed(hub: Hub, alice: RunTune, model: Path):
    said = alice("upload", model)
    assert said.code == 2
    assert said.err == "error: REPO is missing\n  `tune upload model alice/model` would be one\n"


@pytest.mark.parametrize(
    ("answer", "repository"), [("\n", "alice/model"), ("acme/other\n", "acme/other"), ("n\n", None)]
)
def test_at_a_terminal_a_name_is_proposed_and_the_answer_counts(
    hub: Hub, model: Path, tmp_path: Path, answer: str, repository: str | None
):
    terminal, side = pty.openpty()
    env = hub.environment(tmp_path / "home", token="hf_alice", TERM="xterm", COLUMNS="80")
    process = subprocess.Popen(
        [*TUNE, "upload", str(model)], env=env, stdin=side, stdout=side, stderr=side, start_new_session=True
    )
    os.close(side)
    got = b""
    while piece := _read(terminal):
        got += piece
        if b"or another name] " in got and answer:
            os.write(terminal, answer.encode())
            answer = ""
    os.close(terminal)
    assert "Upload to alice/model? [Y/n, or another name] " in got.decode()
    assert process.wait(60) == (0 if repository else 2)
    assert [name for _, name in hub.store.repos] == ([repository] if repository else [])


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other side is closed
        return b""


def test_a_wrong_token_on_the_command_line_is_warned_of_and_never_shown(
    hub: Hub, alice: RunTune, model: Path
):
    said = alice("upload", model, "tiny", "--hf-token", "hf_wrong")
    assert said.code == 2
    assert said.err.startswith("warning: --hf-token: ")
    assert "is not valid" in said.err
    assert "hf_wrong" not in said.err + said.out


def test_a_token_comes_in_on_standard_input(hub: Hub, model: Path, tmp_path: Path):
    done = subprocess.run(
        [*TUNE, "upload", str(model), "tiny", "--hf-token", "-"],
        env=hub.environment(tmp_path / "home"),
        input="hf_bob\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert hub.has("bob/tiny")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_at_once_and_the_same_command_goes_on(
    hub: Hub, model: Path, tmp_path: Path, signum, code
):
    folder = write_folder(Path("shards"), small_weights(), num_shards=3)
    fault = hub.fail("/_lfs/", method="PUT", hold_after=1000, times=3)
    words = [*TUNE, "upload", str(folder), "tiny"]
    env = hub.environment(tmp_path / "home", token="hf_alice")
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: fault.met == 3)
    process.send_signal(signum)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    on = "the same command goes on; a file that had arrived whole is not sent again"
    assert err == f"error: interrupted; {on}\n"
    hub.release()
    assert subprocess.run(words, env=env, capture_output=True, timeout=60).returncode == 0
    assert {path.name for path in folder.iterdir()} <= set(hub.files("alice/tiny"))


def test_bars_of_others_and_their_warnings_stay_away(hub: Hub, model: Path, tmp_path: Path):
    hub.fail("/_lfs/", method="PUT", status=500)
    done = subprocess.run(
        [*TUNE, "upload", str(model), "tiny"],
        env=hub.environment(tmp_path / "home", token="hf_alice", PYTHONWARNINGS="default"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_of_the_hub_is_imported_for_what_is_no_upload(tmp_path: Path):
    code = "import sys; from tune_cli.commands import upload; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
