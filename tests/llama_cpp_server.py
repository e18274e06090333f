"""Asks llama.cpp's server about a GGUF file, in a process and an environment of its own."""

import json
from pathlib import Path
from typing import Any

from isolated import run_with

PACKAGE = "xllamacpp"
"""Has wheels of llama.cpp for all systems; llama-cpp-python has to be compiled, for a quarter of an hour."""

SERVER = """
import json, sys, urllib.request
import xllamacpp

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
answers = []
for path, content in json.loads(sys.argv[2]):
    url, body = server.listening_address + path, json.dumps(content).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        answers.append(json.load(response))
print(json.dumps(answers))
"""


def ask_llama_cpp(model: Path, *requests: tuple[str, dict[str, Any]]) -> list[Any]:
    """What the server says to each request, with a model. The test is skipped where it cannot be had.

    Args:
        model: the GGUF file.
        requests: a path of the server (`/completion`, `/tokenize`), and what is sent there.
    """
    printed = run_with([PACKAGE], SERVER, str(model), json.dumps(requests))
    return json.loads(printed.splitlines()[-1])
