"""The Hub in the hands of a test: it runs in a thread; the test fills it, troubles it and reads its log."""

import asyncio
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn

from hub.app import App
from hub.faults import Fault
from hub.origins import Origins
from hub.store import Commit, Content, Repo, Store
from hub.wire import Seen

PATIENCE_S = 30.0


class Hub:
    """Two origins on free loopback ports. Users: alice, a member of acme (`hf_alice`), and bob (`hf_bob`)."""

    def __init__(self, folder: Path, port: int = 0, cdn_port: int = 0) -> None:
        self._sockets = [_bound(port), _bound(cdn_port)]
        self.url, self.cdn_url = (f"http://127.0.0.1:{s.getsockname()[1]}" for s in self._sockets)
        self.store = Store(folder)
        self.app = App(self.store, Origins(self.url, self.cdn_url))
        configs = [
            uvicorn.Config(
                self.app,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_level="critical",
                timeout_graceful_shutdown=1,
            )
            for _ in self._sockets
        ]
        self._servers = [uvicorn.Server(config) for config in configs]
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), daemon=True)

    def start(self) -> "Hub":
        """Answer requests from here on."""
        self._thread.start()
        wait_for(lambda: all(server.started for server in self._servers))
        return self

    def stop(self) -> None:
        """Answer no more."""
        self.release()
        for server in self._servers:
            server.should_exit = True
        self._thread.join(PATIENCE_S)
        for each in self._sockets:
            each.close()

    def join(self) -> None:
        """Wait until it is stopped."""
        self._thread.join()

    def reset(self) -> None:
        """Be as new: no repositories, no faults, no log."""
        self.release()
        self.app.faults, self.app.requests, self.app.errors = [], [], []
        self.app.page_size, self.app.part_bytes = 1000, None
        self.store.clear()

    def add(
        self,
        name: str,
        files: Mapping[str, Content],
        *,
        private: bool = False,
        gated: bool | str = False,
        kind: str = "model",
    ) -> str:
        """Make a repository with these files, whoever owns the namespace, and return its commit.

        The names are taken as they are. What ends like weights goes into LFS.
        """
        repo = Repo(name, kind, private, gated)
        self.store.repos[kind, name] = repo
        return repo.add_commit("main", self._entries(files), "initial commit", repo.namespace).sha

    def commit(
        self, name: str, files: Mapping[str, Content | None], *, branch: str = "main", kind: str = "model"
    ) -> str:
        """Add, replace or (None) remove files, and return the commit."""
        repo = self.repo(name, kind)
        gone = {path for path, content in files.items() if content is None}
        kept = {path: entry for path, entry in repo.at(branch).files.items() if path not in gone}
        added = self._entries({path: content for path, content in files.items() if content is not None})
        return repo.add_commit(branch, {**kept, **added}, "Change files", repo.namespace).sha

    def branch(self, name: str, branch: str, revision: str = "main", *, kind: str = "model") -> None:
        """Let a branch begin."""
        repo = self.repo(name, kind)
        repo.branches[branch] = repo.at(revision).sha

    def tag(self, name: str, tag: str, revision: str = "main", *, kind: str = "model") -> None:
        """Name a commit."""
        repo = self.repo(name, kind)
        repo.tags[tag] = repo.at(revision).sha

    def grant(self, name: str, user: str, *, kind: str = "model") -> None:
        """Let a user read a gated repository."""
        self.repo(name, kind).granted.add(user)

    def repo(self, name: str, kind: str = "model") -> Repo:
        """Return a repository, with all its branches, tags and commits."""
        return self.store.repos[kind, name]

    def has(self, name: str, kind: str = "model") -> bool:
        """Whether there is such a repository."""
        return (kind, name) in self.store.repos

    def commits(self, name: str, revision: str = "main", *, kind: str = "model") -> list[Commit]:
        """Return the commits of a branch, the newest first."""
        return self.repo(name, kind).history(revision)

    def files(self, name: str, revision: str = "main", *, kind: str = "model") -> dict[str, bytes]:
        """Return the content of every file."""
        entries = self.repo(name, kind).at(revision).files
        return {path: self.store.path(entry.key).read_bytes() for path, entry in entries.items()}

    def fail(self, match: str = "", **how: Any) -> Fault:
        """Let requests go wrong whose path matches: see `Fault` for how."""
        fault = Fault(match, **how)
        self.app.faults.append(fault)
        return fault

    def release(self) -> None:
        """Let all answers go on that are held."""
        for fault in self.app.faults:
            fault.released.set()

    @property
    def requests(self) -> list[Seen]:
        """What was asked since the last `clear_log`, in order."""
        return self.app.requests

    def asked(self, match: str = "", method: str | None = None) -> list[Seen]:
        """Return the requests whose path matches."""
        found = [seen for seen in self.requests if re.search(match, seen.path)]
        return [seen for seen in found if method in (None, seen.method)]

    @property
    def errors(self) -> list[str]:
        """Tracebacks of this Hub's own mistakes."""
        return self.app.errors

    def clear_log(self) -> None:
        """Forget the requests so far."""
        self.app.requests = []

    def environment(self, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """Return what a process needs to talk to this Hub, and to nothing else."""
        kept = {name: value for name, value in os.environ.items() if not _leads_elsewhere(name)}
        mine = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }
        return {**kept, **mine, **({"HF_TOKEN": token} if token else {}), **more}

    def _entries(self, files: Mapping[str, Content]) -> dict[str, Any]:
        return {path: self.store.put(path, content) for path, content in files.items()}

    async def _serve(self) -> None:
        pairs = zip(self._servers, self._sockets, strict=True)
        await asyncio.gather(*(server.serve(sockets=[each]) for server, each in pairs))


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it is so, but not for ever."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def _bound(port: int) -> socket.socket:
    # Named, so that asyncio turns off the waiting for more to send, which takes 40 ms an answer.
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made


def _leads_elsewhere(name: str) -> bool:
    return name.startswith(("HF_", "HUGGING", "TRANSFORMERS_OFFLINE")) or name.lower().endswith("_proxy")
