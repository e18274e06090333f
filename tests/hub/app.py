"""The Hub as an ASGI application: notes each request, does harm if it should, and asks who answers it."""

import asyncio
import traceback
from collections.abc import Iterable
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from hub import api, files, lfs
from hub.faults import NO_FAULT, Fault
from hub.origins import Origins
from hub.refusal import Refusal
from hub.store import Store
from hub.wire import HungUp, Seen, Wire


class App:
    """Answers on both origins."""

    def __init__(self, store: Store, origins: Origins) -> None:
        self.store = store
        self.origins = origins
        self.page_size = 1000
        """Entries of one answer that lists things."""
        self.part_bytes: int | None = None
        """LFS files beyond this size come in parts of it; None is never."""
        self.faults: list[Fault] = []
        self.requests: list[Seen] = []
        self.errors: list[str] = []
        """What went wrong here and not on purpose."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        assert scope["type"] == "http"
        seen = Seen.of(scope, self.origins.cdn.partition("//")[2])
        self.requests.append(seen)
        errors = (
            self.errors
        )  # a test that has ended may have left this request: its error is not the next one's
        fault = _met(self.faults, seen)
        wire = Wire(receive, send, seen, fault)
        if fault.ignore_range:
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"range"]
        try:
            response = await self._answer(Request(scope, wire.receive), seen, fault, wire)
            await response(scope, wire.receive, wire.send)
        except (HungUp, ClientDisconnect):
            pass
        except Exception:
            errors.append(traceback.format_exc())
            raise

    async def _answer(self, request: Request, seen: Seen, fault: Fault, wire: Wire) -> Response:
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.hang_up:
            await wire.hang_up()
        if fault.status or fault.redirect:
            await wire.drain()
        try:
            if fault.redirect:
                return RedirectResponse(fault.redirect, 302)
            if fault.status:
                raise Refusal(fault.status, fault.message)
            return await self._route(request, seen)
        except Refusal as refusal:
            return JSONResponse({"error": refusal.message}, refusal.status, refusal.headers)

    async def _route(self, request: Request, seen: Seen) -> Response:
        # Empty parts count: the name of a file may begin with a slash.
        parts = [unquote(part) for part in seen.path.split("/")[1:]]
        match parts:
            case ["_lfs", *rest]:
                return await lfs.receive(self.store, request, rest)
            case ["_cdn", sha256] if seen.on_cdn:
                return files.from_cdn(self.store, self.origins, request, sha256)
            case ["api", *rest] if not seen.on_cdn:
                return await api.answer(self.store, self.origins, request, rest, self.page_size)
        kind, parts = ("model", parts) if parts[0] not in api.KINDS else (api.KINDS[parts[0]], parts[1:])
        match parts:
            case [namespace, name, "info", "lfs", "objects", "batch"] if not seen.on_cdn:
                name = f"{namespace}/{name.removesuffix('.git')}"
                return await lfs.batch(self.store, self.origins, request, kind, name, self.part_bytes)
            case [_, _, "resolve", _, _, *_] if not seen.on_cdn:
                return files.resolve(self.store, self.origins, request, kind, parts)
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")


def _met(faults: Iterable[Fault], seen: Seen) -> Fault:
    return next((fault for fault in faults if fault.meets(seen.method, seen.path)), NO_FAULT)
