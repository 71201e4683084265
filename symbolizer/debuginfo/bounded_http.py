"""One GET of a file that may be large, from a server that may do anything: bounded, and to be ended from outside."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import string
import threading
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

_PIECE = 1 << 16
_REDIRECTED = (301, 302, 303, 307, 308)


class StatusError(Exception):
    """The server answered, with a status that means there is no such file."""

    def __init__(self, status: int) -> None:
        super().__init__(f"it answered with HTTP status {status}")
        self.status = status


class TooLargeError(Exception):
    """The file has more bytes than asked for."""


class TransferError(Exception):
    """It was not possible to ask the server, or to get the whole answer; the message says why."""


class Call:
    """A download by one thread that another may end.

    Proxies are those of the usual variables (http_proxy, https_proxy, no_proxy). User and password in a URL go to
    that server alone.
    """

    def __init__(self, url: str, headers: dict[str, str], *, stall_seconds: float, redirects: int) -> None:
        """`url`: http or https. `stall_seconds`: without a byte. `redirects`: followed at most."""
        self.answered = False
        """Whether the server has sent a status."""
        self._url = url
        self._headers = headers
        self._stall_seconds = stall_seconds
        self._redirects = redirects
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    def get(self, file: int, most_bytes: int) -> None:
        """Writes what the server has to the descriptor. Raises StatusError, TooLargeError, TransferError; OSError
        where it cannot be written."""
        response = self._response()
        with response:
            length = response.length
            if length is not None and length > most_bytes:
                raise TooLargeError(f"it has {length} bytes, more than {most_bytes}")
            written = 0
            while data := self._piece(response):
                written += len(data)
                if written > most_bytes:
                    raise TooLargeError(f"it has more than {most_bytes} bytes")
                while data:
                    data = data[os.write(file, data) :]
            if length is not None and written < length or self._aborted:
                raise TransferError(f"it broke off after {written} bytes")

    def abort(self) -> None:
        """Makes `get` end soon, whatever it waits for."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def watch(self, connected: socket.socket) -> None:
        """This is what `abort` has to end. Raises OSError where it was called already."""
        with self._lock:
            self._socket = connected
            if self._aborted:
                raise OSError("it was called off")

    def _response(self) -> HTTPResponse:
        opener = OpenerDirector()
        for handler in (ProxyHandler(), _Http(self), _Https(self), HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
            opener.add_handler(handler)
        first, login = _without_login(self._url)
        url = first
        for _ in range(self._redirects + 1):
            request = Request(url, headers=self._headers)
            if login and urlsplit(url)[:2] == urlsplit(first)[:2]:
                request.add_header("Authorization", login)
            try:
                response: HTTPResponse = opener.open(request, timeout=self._stall_seconds)
            except HTTPError as error:  # its body, which may be endless, is left unread
                self.answered = True
                location = error.headers.get("Location", "")
                error.close()
                if error.code not in _REDIRECTED or not location:
                    raise StatusError(error.code) from None
                url = _redirected(url, location)
                continue
            except (OSError, HTTPException, ValueError) as error:
                raise TransferError(_sentence(error)) from error
            self.answered = True
            if response.status != 200:
                response.close()
                raise StatusError(response.status)
            return response
        raise TransferError(f"it redirects more than {self._redirects} times")

    def _piece(self, response: HTTPResponse) -> bytes:
        try:
            return response.read(_PIECE)
        except (OSError, HTTPException, ValueError, AttributeError) as error:  # of one that was shut down, anything
            raise TransferError(_sentence(error)) from error


def _without_login(url: str) -> tuple[str, str]:
    """The URL without user and password, and the value of the header that says those."""
    parts = urlsplit(url)
    login, at, place = parts.netloc.rpartition("@")
    encoded = base64.b64encode(unquote(login).encode()).decode()
    return urlunsplit(parts._replace(netloc=place)), f"Basic {encoded}" if at else ""


def _redirected(url: str, location: str) -> str:
    try:
        target, _ = _without_login(urljoin(url, quote(location, safe=string.punctuation, encoding="latin-1")))
        scheme = urlsplit(target).scheme
    except ValueError:
        raise TransferError("it redirects to something that is no URL") from None
    if scheme != "https" and scheme != urlsplit(url).scheme:
        raise TransferError(f"it redirects from {urlsplit(url).scheme} to {scheme}")
    return target


class _Http(HTTPHandler):
    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(_HttpConnection, self._call), request)


class _Https(HTTPSHandler):
    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def https_open(self, request: Request) -> HTTPResponse:
        connection = partial(_HttpsConnection, self._call)
        return self.do_open(connection, request, context=ssl.create_default_context())


class _HttpConnection(HTTPConnection):
    def __init__(self, call: Call, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._call = call

    def connect(self) -> None:
        super().connect()
        self._call.watch(self.sock)


class _HttpsConnection(HTTPSConnection):
    def __init__(self, call: Call, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._call = call

    def connect(self) -> None:
        super().connect()
        self._call.watch(self.sock)


def _sentence(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "it does not answer"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__
