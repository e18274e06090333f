"""Hubs that are silent, lead elsewhere or are none at all, and addresses that are none."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hub.server import Hub
from tune_hub import download, plan_download, waiting
from tune_hub.errors import AccessError, HubError, RepositoryNotFoundError, TransferError

MODEL = {"model.safetensors": b"weights" * 100, "config.json": b'{"model_type": "llama"}'}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up without long waits."""
    monkeypatch.setattr(waiting, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def small(hub: Hub) -> str:
    hub.add("acme/small", MODEL, private=True)
    return "acme/small"


def test_the_token_does_not_follow_the_list_of_files_to_another_origin(hub: Hub, small: str, tmp_path: Path):
    hub.fail("/tree/", headers={"Link": f'<{hub.cdn_url}/evil>; rel="next"'})
    with pytest.raises(TransferError, match="sends us elsewhere for the rest of the list"):
        download(small, tmp_path / "out", token="hf_alice")
    assert hub.asked("evil") == []


@pytest.mark.parametrize("address", ["http://[::1", "ftp://127.0.0.1/x", "http://localhost:abc/"])
def test_a_next_page_at_no_address_is_refused(hub: Hub, small: str, tmp_path: Path, address: str):
    hub.fail("/tree/", headers={"Link": f'<{address}>; rel="next"'})
    with pytest.raises(TransferError, match="sends us elsewhere for the rest of the list"):
        download(small, tmp_path / "out", token="hf_alice")


def test_a_list_of_files_that_leads_back_to_itself_ends(hub: Hub, small: str, tmp_path: Path):
    again = f"{hub.url}/api/models/{small}/tree/main?recursive=true"
    hub.fail("/tree/", headers={"Link": f'<{again}>; rel="next"'}, times=100)
    with pytest.raises(TransferError, match="has no end"):
        download(small, tmp_path / "out", token="hf_alice")


def test_a_list_of_files_on_many_pages_is_read_to_its_end(hub: Hub, small: str, tmp_path: Path):
    hub.app.page_size = 1
    hub.commit(small, {f"more-{number}.json": b"{}" for number in range(5)})
    assert len(plan_download(small, tmp_path / "out", token="hf_alice").files) == 7


@pytest.mark.parametrize("silent", [f"^/api/models/acme/small{rest}" for rest in ("$", "/tree/", "/auth-")])
def test_a_hub_that_never_answers_is_given_up(
    hub: Hub, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.05")
    hub.repo(small).gated = "auto"
    hub.fail(silent, delay=0.5, times=100)
    with pytest.raises(TransferError, match=r"cannot be reached: .*timed out"):
        plan_download(small, tmp_path / "out", token="hf_alice")


@pytest.mark.parametrize("seconds", ["nan", "-5", "0", "inf", "soon", "1e300"])
def test_a_timeout_that_is_none_counts_as_not_given(
    hub: Hub, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str
):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", seconds)
    assert download(small, tmp_path / "out", token="hf_alice").fetched_bytes > 700


@contextmanager
def answering(text: str) -> Iterator[str]:
    """A server that says the same to all."""

    class Same(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Same) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


SHA = "0" * 40
HOSTILE = json.dumps([{"type": "file", "path": "x", "size": 1, "oid": SHA, "lfs": {"oid": "../../x"}}])


@pytest.mark.parametrize(
    "answer", ["<html>log in</html>", "", "[1, 2]", '{"id": "acme/small", "sha": "../x"}', HOSTILE]
)
@pytest.mark.parametrize("path", ["^/api/models/acme/small$", "/tree/"])
def test_an_answer_that_no_hub_gives_is_told_as_that(hub: Hub, tmp_path: Path, path: str, answer: str):
    hub.add("acme/small", MODEL)
    with answering(answer) as address:
        hub.fail(path, redirect=address)
        with pytest.raises(TransferError, match=r"answers, but not as a Hub does(.|\n)*check HF_ENDPOINT"):
            download("acme/small", tmp_path / "out")


@pytest.mark.parametrize(
    "endpoint",
    ["http://[::1", "http://localhost:abc", "huggingface.co", "ftp://localhost", "http://", "http://a:99999"],
)
def test_an_endpoint_that_is_no_address_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(HubError, match=r"HF_ENDPOINT: .* is not the address of a Hub") as caught:
        plan_download("acme/small", tmp_path / "out")
    assert endpoint in str(caught.value)


@pytest.mark.parametrize("endpoint", ["http://user:s3cret@localhost", "//user:s3cret@localhost:abc"])
def test_a_password_in_the_endpoint_is_refused_and_not_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(HubError, match="HF_ENDPOINT") as caught:
        plan_download("acme/small", tmp_path / "out")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "environment",
    [
        {"HF_ENDPOINT": "http://[::1"},
        {"HF_HUB_DOWNLOAD_TIMEOUT": "nan"},
        {"HTTP_PROXY": "foo://user:s3cret@localhost"},
        {"ALL_PROXY": "socks5://localhost:1"},
        {"HTTP_PROXY": "http://[::1"},
    ],
)
def test_an_environment_that_cannot_be_right_is_told_in_few_words(
    hub: Hub, tmp_path: Path, environment: dict[str, str]
):
    told = _refused(tmp_path, hub.environment(tmp_path, **environment))
    assert next(iter(environment)) in told
    assert "s3cret" not in told


def _refused(folder: Path, environment: dict[str, str]) -> str:
    """What a process prints that plans a download and is refused by us."""
    program = (
        "import sys, tune_hub.errors, tune_hub\n"
        "try: tune_hub.plan_download('acme/small', sys.argv[1])\n"
        "except tune_hub.errors.HubError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(folder / "out")]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_hub_that_leads_to_another_protocol_is_not_asked_again(hub: Hub, small: str, tmp_path: Path):
    hub.fail("^/api/models/acme/small$", redirect="ftp://127.0.0.1/x", times=100)
    with pytest.raises(TransferError, match="cannot be reached"):
        plan_download(small, tmp_path / "out", token="hf_alice")
    assert len(hub.asked("^/api/models/acme/small$")) == 1


def test_a_redirection_to_no_address_is_an_error_of_the_transfer(hub: Hub, small: str, tmp_path: Path):
    hub.fail("^/api/models/acme/small$", redirect="http://[::1", times=100)
    with pytest.raises(TransferError, match="cannot be reached"):
        download(small, tmp_path / "out", token="hf_alice")


@pytest.mark.parametrize("address", ["http://[::1", "ftp://127.0.0.1/x"])
def test_a_file_that_lies_at_no_address_is_asked_for_once(hub: Hub, small: str, tmp_path: Path, address: str):
    hub.fail("/resolve/.*config", redirect=address, times=100)
    with pytest.raises(TransferError, match=r"config\.json: 127\.0\.0\.1 leads to what is no address"):
        download(small, tmp_path / "out", token="hf_alice")
    assert len(hub.asked("/resolve/.*config")) == 1


@pytest.mark.parametrize("revision", ["", " "])
def test_an_empty_revision_is_refused(hub: Hub, small: str, tmp_path: Path, revision: str):
    with pytest.raises(RepositoryNotFoundError, match="the revision is empty"):
        plan_download(small, tmp_path / "out", revision=revision, token="hf_alice")


def test_what_nobody_may_do_without_a_token_says_so(hub: Hub, small: str, tmp_path: Path):
    hub.fail("^/api/models/", status=403, message="members only")
    with pytest.raises(AccessError, match="nobody without a token: members only") as caught:
        plan_download(small, tmp_path / "out")
    assert "hf auth login" in str(caught.value)


def test_a_token_that_may_not_be_used_unasked_is_not_sent(
    hub: Hub, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with pytest.raises(RepositoryNotFoundError, match="or it is private"):
        plan_download(small, tmp_path / "out")
    assert {seen.auth for seen in hub.requests} == {None}
    assert plan_download(small, tmp_path / "out", token="hf_alice").files
