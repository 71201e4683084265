"""Answers are compressed as their reader can take them: zstd or gzip, as they come, without holding them back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final, Protocol

from backports import zstd

from web.auth import App, Message, Receive, Scope, Send

SMALLEST: Final = 1024  # bytes; smaller ones gain nothing
_LEVEL_GZIP: Final = 5
_LEVEL_ZSTD: Final = 3
_TEXTS: Final = (
    "text/",
    "application/json",
    "application/javascript",
    "application/proto",
    "application/x-protobuf",
    "image/svg+xml",
)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Compress:
    """ASGI middleware. What is compressed already, and what is small, goes out as it is."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        accepted = b", ".join(value for name, value in scope["headers"] if name == b"accept-encoding")
        # What was compressed went out with a weak ETag; for If-None-Match that is the same.
        strong = [
            (name, value.replace(b"W/", b"") if name == b"if-none-match" else value) for name, value in scope["headers"]
        ]
        encoding = chosen(accepted.decode("latin-1"))
        waiting: Message | None = None
        compressor: _Compressor | None = None

        async def compressed(message: Message) -> None:
            nonlocal waiting, compressor
            if message["type"] == "http.response.start":
                waiting = message
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            if waiting is not None:
                start, waiting = waiting, None
                headers = {name.lower(): value for name, value in start["headers"]}
                if _is_text(headers):
                    start = {**start, "headers": [*start["headers"], (b"vary", b"Accept-Encoding")]}
                    if encoding and _is_worth_it(start["status"], headers, len(body), more, scope["method"]):
                        compressor = _compressor(encoding)
                        start = {**start, "headers": _encoded(start["headers"], encoding)}
                await send(start)
            if compressor is not None:
                body = compressor.compress(body) + (b"" if more else compressor.flush())
                if not body and more:
                    return
            await send({**message, "body": body})

        await self._app({**scope, "headers": strong}, receive, compressed)


def chosen(accepted: str) -> str:
    """zstd, gzip, or "" for neither, by the header Accept-Encoding: the one with more weight, of two alike zstd.

    Source: RFC 9110, section 12.5.3.
    """
    weights: dict[str, float] = {}
    for part in accepted[:1000].split(","):
        name, _, parameters = part.partition(";")
        weight = 1.0
        key, _, value = parameters.strip().partition("=")
        if key.strip().lower() == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
        weights.setdefault(name.strip().lower(), weight)
    anything = weights.get("*", 0.0)
    zstd_weight, gzip_weight = weights.get("zstd", anything), weights.get("gzip", weights.get("x-gzip", anything))
    if max(zstd_weight, gzip_weight) <= 0:
        return ""
    return "zstd" if zstd_weight >= gzip_weight else "gzip"


def _is_text(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"content-type", b"").decode("latin-1").lower().startswith(_TEXTS)


def _is_worth_it(status: int, headers: Mapping[bytes, bytes], length: int, more: bool, method: str) -> bool:
    if status < 200 or status in (204, 206, 304) or method == "HEAD" or b"content-encoding" in headers:
        return False
    return more or length >= SMALLEST


def _compressor(encoding: str) -> _Compressor:
    if encoding == "zstd":
        return zstd.ZstdCompressor(level=_LEVEL_ZSTD)
    return zlib.compressobj(_LEVEL_GZIP, wbits=31)


def _encoded(headers: list[tuple[bytes, bytes]], encoding: str) -> list[tuple[bytes, bytes]]:
    """The headers of a compressed answer: of another length, and its ETag no longer one of these very bytes."""
    kept = []
    for name, value in headers:
        if name.lower() == b"etag" and not value.startswith(b"W/"):
            value = b"W/" + value
        if name.lower() != b"content-length":
            kept.append((name, value))
    return [*kept, (b"content-encoding", encoding.encode())]
