"""Runs the Hub by hand: `PYTHONPATH=tests python -m hub --root DIR [--port P] [--cdn-port Q]`."""

import argparse
from pathlib import Path

from hub.server import Hub

parser = argparse.ArgumentParser(
    prog="python -m hub", description="tokens: hf_alice (member of acme), hf_bob"
)
parser.add_argument("--root", type=Path, required=True, help="folder for the contents of the files")
parser.add_argument("--port", type=int, default=18200)
parser.add_argument("--cdn-port", type=int, default=18201, help="the second origin")
parser.add_argument("--part-bytes", type=int, help="LFS files beyond this size come in parts of it")
parser.add_argument("--page-size", type=int, default=1000, help="entries of one listing")
options = parser.parse_args()
hub = Hub(options.root, options.port, options.cdn_port)
hub.app.part_bytes, hub.app.page_size = options.part_bytes, options.page_size
hub.start()
print(f"HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1  (^C ends it)", flush=True)
try:
    hub.join()
except KeyboardInterrupt:
    hub.stop()
