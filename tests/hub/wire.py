"""Stands between the server and the Hub: writes the log, and does harm on demand."""

import asyncio
import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from hub.faults import Fault

TICK_S = 0.01
PIECES_PER_SECOND = 50
"""In which a slow answer goes out."""


@dataclass
class Seen:
    """A request, and what became of it."""

    method: str
    path: str
    """As it was sent, without the query."""
    query: str
    host: str
    """And port."""
    headers: dict[str, str]
    """Names in lower case."""
    on_cdn: bool = False
    """The second origin was asked."""
    status: int | None = None
    """Of the answer; None if there was none."""
    sent: int = 0
    """Bytes of the answer's body."""
    received: int = 0
    """Bytes of the request's body."""
    done: bool = False
    """The answer went out whole."""

    @property
    def range(self) -> str | None:
        """What was asked for, as `bytes=5-`."""
        return self.headers.get("range")

    @property
    def auth(self) -> str | None:
        """How the client showed who it is."""
        return self.headers.get("authorization")

    @classmethod
    def of(cls, scope: Scope, cdn: str) -> "Seen":
        """Begin the note of a request, to one of the two hosts."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["raw_path"].decode("latin-1").partition("?")[0]
        host, query = headers.get("host", ""), scope["query_string"].decode()
        return cls(scope["method"], path, query, host, headers, host == cdn)


class HungUp(Exception):
    """The connection is closed, by us or by the client."""


class Wire:
    """A request's two ends, under a fault."""

    def __init__(self, receive: Receive, send: Send, seen: Seen, fault: Fault) -> None:
        self._receive = receive
        self._send = send
        # uvicorn's own end of the request: ASGI has no way to close a connection.
        self._cycle: Any = getattr(send, "__self__", None)
        self._seen = seen
        self._fault = fault
        self._uploads = seen.method in ("PUT", "POST")
        self._offset = 0
        """Of the next byte in the file."""

    async def receive(self) -> Message:
        """Take a piece of the request's body."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen.received += (size := len(message.get("body", b"")))
            if self._uploads:
                await self._hinder(size, self._seen.received)
        return message

    async def drain(self) -> None:
        """Take the request's whole body."""
        while (message := await self.receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            raise HungUp

    async def send(self, message: Message) -> None:
        """Send the answer's head, or a piece of its body."""
        if message["type"] == "http.response.start":
            self._seen.status = message["status"]
            await self._send(self._headed(message))
            if not self._uploads:
                await self._hinder(0, 0)
            return
        body, more = bytes(message.get("body", b"")), message.get("more_body", False)
        body = b"" if self._seen.method == "HEAD" else self._changed(body)
        for start in range(0, len(body), step := self._step(len(body))):
            piece = body[start : start + step]
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            if self._lost:
                raise HungUp
            self._seen.sent += len(piece)
            if not self._uploads:
                await self._hinder(len(piece), self._seen.sent)
        if not more:
            await self._send({"type": "http.response.body", "body": b""})
            self._seen.done = not self._lost

    async def hang_up(self) -> None:
        """Close the connection. What was sent still arrives."""
        assert self._cycle is not None, "needs uvicorn"
        self._cycle.transport.close()
        while not self._cycle.disconnected:
            await asyncio.sleep(TICK_S / 10)
        raise HungUp

    @property
    def _lost(self) -> bool:
        return bool(self._cycle is not None and self._cycle.disconnected)

    def _step(self, size: int) -> int:
        """How much may go out before something must be done."""
        if self._fault.bytes_per_second:
            return max(1, self._fault.bytes_per_second // PIECES_PER_SECOND)
        for stop in (self._fault.drop_after, self._fault.hold_after):
            if stop is not None and stop > self._seen.sent:
                return min(max(size, 1), stop - self._seen.sent)
        return max(size, 1)

    async def _hinder(self, size: int, total: int) -> None:
        """Wait, hold or hang up, after so many bytes now and in all."""
        if self._fault.bytes_per_second:
            await asyncio.sleep(size / self._fault.bytes_per_second)
        if self._fault.hold_after is not None and total >= self._fault.hold_after:
            while not self._fault.released.is_set() and not self._lost:
                await asyncio.sleep(TICK_S)
        if self._fault.drop_after is not None and total >= self._fault.drop_after:
            await self.hang_up()

    def _headed(self, message: MutableMapping[str, Any]) -> Message:
        headers = dict(message["headers"])
        if begin := re.match(rb"bytes (\d+)-", headers.get(b"content-range", b"")):
            self._offset = int(begin[1])
        if self._fault.truncate is not None and b"content-length" in headers:
            headers[b"content-length"] = b"%d" % min(self._fault.truncate, int(headers[b"content-length"]))
        headers |= {name.lower().encode(): value.encode() for name, value in self._fault.headers.items()}
        return {**message, "headers": list(headers.items())}

    def _changed(self, body: bytes) -> bytes:
        at = None if self._fault.corrupt is None else self._fault.corrupt - self._offset
        self._offset += len(body)
        if at is not None and 0 <= at < len(body):
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        if self._fault.truncate is not None:
            body = body[: max(0, self._fault.truncate - self._seen.sent)]
        return body
