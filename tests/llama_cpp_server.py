"""Asks llama.cpp's server about a GGUF file, in a process and an environment of its own.

The package xllamacpp has wheels of llama.cpp for all systems; llama-cpp-python has to be compiled, which
takes a quarter of an hour.
"""

import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

PACKAGE = "xllamacpp"

Request = tuple[str, dict[str, Any]]
"""A path of the server (`/completion`, `/tokenize`, `/v1/chat/completions`), and what is sent there."""


class LlamaCpp:
    """Runs a server for each model, as long as it takes to answer.

    Raises:
        OSError: llama.cpp cannot be had here; the message says why.
    """

    def __init__(self) -> None:
        uv = shutil.which("uv")
        if uv is None:
            raise OSError("uv is not installed, which brings llama.cpp")
        self._python = [uv, "run", "--no-project", "--python", sys.executable, "--with", PACKAGE, "python"]
        try:
            subprocess.run(
                [*self._python, "-c", f"import {PACKAGE}"], check=True, capture_output=True, timeout=300
            )
        except subprocess.SubprocessError as error:
            raise OSError(f"uv cannot bring {PACKAGE}: {error}") from error

    def ask(self, model: Path, *requests: Request) -> list[Any]:
        """What the server says to each request."""
        done = subprocess.run(
            [*self._python, __file__, str(model)],
            input=json.dumps(requests),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])


def serve() -> None:
    """Answer the requests that stand on stdin, in one line of JSON."""
    import xllamacpp  # pyright: ignore[reportMissingImports]

    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx = 512
    params.n_parallel = 1
    params.warmup = False
    params.port = 0
    params.verbosity = -1
    # Else keys and values are rounded to 16 bits.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    answers: list[Any] = []
    for path, content in json.load(sys.stdin):
        url, body = server.listening_address + path, json.dumps(content).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            answers.append(json.load(response))
    print(json.dumps(answers))


if __name__ == "__main__":
    serve()
