"""Who may ask, and what every answer carries: the login, the token, the Host check and strict headers."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import quote, urlsplit

from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

COOKIE: Final = "pilotlight"
SESSION_S: Final = 30 * 86400

_OPEN: Final = ("/healthz", "/readyz", "/login")
PPROF: Final = "/debug/pprof/"  # whose client shows what is wrong if it is text and marked
_ACTING: Final = (PPROF + "profile",)  # a GET that has an agent at work
_SHARED: Final = ("/flamegraph.", "/captures/")  # what pages of other origins may be allowed to read
HEADERS: Final = {
    b"content-security-policy": (
        b"default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def same(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))


def session(token: str, now: float | None = None) -> str:
    """The value of a cookie that proves a login until it expires; another token makes it worthless."""
    expiry = int((time.time() if now is None else now) + SESSION_S)
    return f"{expiry}.{_signature(token, expiry)}"


def valid_session(value: str, token: str, now: float | None = None) -> bool:
    expiry, _, signature = value.partition(".")
    if not (expiry.isascii() and expiry.isdigit() and len(expiry) < 16):
        return False
    fresh = int(expiry) > (time.time() if now is None else now)
    return same(signature, _signature(token, int(expiry))) and fresh


def _signature(token: str, expiry: int) -> str:
    return hmac.new(token.encode(), f"pilotlight session {expiry}".encode(), sha256).hexdigest()


class Guard:
    """ASGI middleware. `token` None lets everyone in; `only_local` then still refuses other sites' pages,
    whose names an attacker's DNS can point at this machine (DNS rebinding). Pages of the origins `readers` may read
    profiles as files (W3C Cross-Origin Resource Sharing), as far as that needs no token."""

    def __init__(self, app: App, token: str | None, only_local: bool, readers: Sequence[str] = ()) -> None:
        self._app = app
        self._readers = frozenset(readers)
        self._token = token
        self._check_host = only_local and token is None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin", "")
        shared = scope["method"] in ("GET", "HEAD") and scope["path"].startswith(_SHARED)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                if shared and self._readers:
                    message["headers"] = [*message["headers"], (b"vary", b"Origin")]
                    if origin in self._readers:
                        message["headers"].append((b"access-control-allow-origin", origin.encode("latin-1")))
                present = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in HEADERS.items() if name not in present]
                if b"cache-control" not in present:
                    added.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *added]
            await send(message)

        refusal = self._refusal(scope, headers)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        path, method = scope["path"], scope["method"]
        if self._check_host and not is_loopback(_host_name(headers.get("host", ""))):
            return JSONResponse(
                {"error": "this server answers to localhost only: open http://127.0.0.1 with its port"}, 421
            )
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if self._token is not None and scheme.lower() == "bearer" and same(given.strip(), self._token):
            return None
        if path in _OPEN or path.startswith("/static/"):
            return None
        # From here on, all that may prove a right is what a browser sends along whichever site's page makes it ask.
        reads, ours = method in ("GET", "HEAD"), of_our_page(headers)
        if ours is False and not (reads and path not in _ACTING):
            return _refuse(path, 403, "another site's page may not change anything here")
        if self._token is None:
            return None
        if scheme.lower() == "basic" and same(_password(given), self._token):
            return None
        if (reads or ours) and valid_session(_cookie(headers.get("cookie", "")), self._token):
            return None
        if method == "GET" and "text/html" in headers.get("accept", ""):
            query = scope["query_string"].decode("latin-1")
            wanted = f"{path}?{query}" if query else path
            return RedirectResponse(f"/login?next={quote(wanted, safe='')}", 303)
        advice = "send it as Authorization: Bearer TOKEN, as the password of the address, or log in at /login"
        return _refuse(path, 401, f"a token is needed: {advice}", {"www-authenticate": "Bearer"})


def _refuse(path: str, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    if path.startswith(PPROF):
        return PlainTextResponse(message + "\n", status, {**(headers or {}), "x-go-pprof": "1"})
    return JSONResponse({"error": message}, status, headers)


def of_our_page(headers: Mapping[str, str]) -> bool | None:
    """Whether a page of this server makes the request, or another site's; None where no browser says.

    Browsers tell by Sec-Fetch-Site (W3C Fetch Metadata) where the connection is TLS or local, else by Origin with
    everything but reads. The scheme is left out of account: a proxy that ends TLS changes it.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return {"same-origin": True, "none": None}.get(site, False)
    origin = headers.get("origin")
    return None if origin is None else urlsplit(origin).netloc == headers.get("host", "") != ""


def _password(credentials: str) -> str:
    """The password of HTTP's Basic scheme (RFC 7617), "" where there is none."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def local_path(path: str) -> str:
    """`path` if it leads to a page of this server, else the first page."""
    parts = urlsplit(path) if path.isprintable() else None
    if parts is None or parts.scheme or parts.netloc or "\\" in path or not path.startswith("/"):
        return "/"
    return "/" if path.startswith("//") else path


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header.partition("]")[0].lstrip("[")
    return header.partition(":")[0]


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""
