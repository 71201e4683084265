"""The server: its parts put together, and its life from bind to last commit."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import pwd
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from web import (
    annotations_api,
    api,
    auth,
    below_endpoint,
    captured,
    captures_api,
    captures_pages,
    diff_page,
    hosts,
    ingest,
    names,
    open_file,
    pages,
    pprof_endpoint,
    questions,
    settings,
    timeline,
)
from web.assets import render
from web.captures import Captures
from web.compress import Compress
from web.contexts import ErrorPage
from web.gone import EndWhenGone
from web.openapi import Application
from web.pyroscope import routes as pyroscope
from web.store.asking import NobodyWaits
from web.store.queries import Empty, Queries
from web.store.retention import BadRetention
from web.store.store import BadQuery, Store, StoreUnavailable, directory_of
from web.store.upkeep import Upkeep
from web.store.writer import Writer
from web.warmup import warm_up

log = logging.getLogger("pilotlight.server")

_FOR_PROGRAMS: Final = (
    "/api/",
    "/v1development/",
    "/metrics",
    "/readyz",
    "/ingest",
    "/pyroscope/",
    "/push.v1.",
    "/querier.v1.",
)
# Bytes of a request's line and headers: the longest names that questions take, every character of them escaped (%F0…).
_LONGEST_HEAD: Final = 256 << 10
_NOT_PAGES: Final = (".json", ".svg", ".folded", ".gz", ".txt")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """`port` 0 takes any free one. `store` is chdb:///DIRECTORY or clickhouse://HOST[:PORT][/DATABASE].

    Without a `token`, only an address of this machine may be bound, unless `insecure_no_auth`. Pushes
    are committed together at most every `commit_seconds`. `retention` are days by name (samples, rollups);
    what it does not name is kept as long as before. Pages of `allow_origins`, such as https://www.speedscope.app, may
    read profiles where no token is needed.
    """

    store: str
    host: str = "127.0.0.1"
    port: int = 4099
    token: str | None = None
    insecure_no_auth: bool = False
    commit_seconds: float = 1.0
    retention: Mapping[str, int] = field(default_factory=dict)
    allow_origins: Sequence[str] = ()


class CannotServe(Exception):
    """The server cannot start; the message is one sentence for people."""


def create_app(store: Store, options: ServerOptions) -> FastAPI:
    """The application over an open store, with a writer that its lifespan closes."""
    app = _assemble(options)
    _attach(app, store, options)
    return app


def _assemble(options: ServerOptions) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(app.state.captures.watch())
        yield
        watch.cancel()
        await asyncio.to_thread(app.state.upkeep.close)
        await asyncio.to_thread(app.state.writer.close)

    app = Application(
        title="pilotlight",
        summary="Whole-system CPU profiles: ingest and query",
        version="1",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.options = options
    routed = (hosts, pages, diff_page, api, questions, timeline, settings, ingest, names, open_file, pyroscope)
    for module in (*routed, annotations_api, below_endpoint, captured, captures_api, captures_pages, pprof_endpoint):
        app.include_router(module.router)
    app.add_middleware(EndWhenGone, store=lambda: app.state.store)
    app.add_middleware(_Mistakes)
    app.add_middleware(
        auth.Guard, token=options.token, only_local=auth.is_loopback(options.host), readers=options.allow_origins
    )
    app.add_middleware(Compress)
    for kind, status in (
        (BadQuery, 400),
        (BadRetention, 400),
        (Empty, 404),
        (NobodyWaits, 499),
        (StoreUnavailable, 503),
    ):
        app.add_exception_handler(kind, _answer_with(status))
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    return app


def _attach(app: FastAPI, store: Store, options: ServerOptions) -> None:
    app.state.store = store
    app.state.queries = Queries(store)
    app.state.writer = Writer(store, options.commit_seconds, keep=options.retention)
    app.state.upkeep = Upkeep(store, app.state.writer)
    app.state.captures = Captures(store)
    app.state.rejected = Counter()
    app.state.parsing = asyncio.Semaphore(ingest.PARSING_AT_ONCE)


def serve(options: ServerOptions, *, user: str | None = None, ready: Callable[[str], None] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code, having said in one sentence what is wrong if 1.

    Binds first. As root with a `user`, becomes that user for good before the store is opened; whatever
    the program is made of has been loaded by then, since its files may lie where that user cannot read.
    `ready` is called with the URL when requests are answered.
    """
    try:
        if options.token is None and not options.insecure_no_auth and not auth.is_loopback(options.host):
            raise CannotServe(
                f"{options.host} can be reached from other machines: give the server a token, or"
                " --insecure-no-auth to let everyone read the profiles and push to it"
            )
        if options.token == "":
            raise CannotServe("the token is empty")
        listener = bind(options.host, options.port)
        with listener:
            app = _assemble(options)
            server = _Server(
                uvicorn.Config(
                    app,
                    log_level="warning",
                    access_log=False,
                    server_header=False,
                    timeout_keep_alive=75,
                    timeout_graceful_shutdown=10,
                    limit_concurrency=1500,  # an agent has two connections, of which one waits
                    h11_max_incomplete_event_size=_LONGEST_HEAD,
                )
            )
            server.config.load()
            warm_up(app)
            if user is not None and os.geteuid() == 0:
                become(user, directory_of(options.store))
            store = Store(options.store)
            try:
                _attach(app, store, options)
                gc.collect()
                gc.freeze()  # what is loaded now stays: no need to look at it again and again
                port = listener.getsockname()[1]
                shown = f"[{options.host}]" if ":" in options.host else options.host
                server.on_shutdown = app.state.captures.close
                server.on_ready = lambda: ready(f"http://{shown}:{port}/") if ready else None
                asyncio.run(server.serve([listener]))
                app.state.upkeep.close()
                app.state.writer.close()
            finally:
                store.close()
    except (CannotServe, StoreUnavailable, BadRetention) as error:
        print(f"pilotlight: {error}", file=sys.stderr)
        return 1
    return 0


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready and ends with SIGTERM as it does with SIGINT: in peace."""

    on_ready: Callable[[], None] | None = None
    on_shutdown: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        if self.started and self.on_ready is not None:
            self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.on_shutdown is not None:  # those who wait for something get their answer first
            self.on_shutdown()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CannotServe."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(found[0], socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(found[4])
            listener.listen(512)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise CannotServe(
                f"port {port} of {host} is in use: stop what listens there, or choose another with --listen"
            ) from error
        if number == errno.EACCES:
            raise CannotServe(f"port {port} needs more rights: choose one above 1023 with --listen") from error
        raise CannotServe(f"cannot listen on {host}:{port}: {error}") from error
    return listener


def become(user: str, directory: Path | None) -> None:
    """Give the data directory to `user`, then become that user, without a way back. Raises CannotServe."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise CannotServe(f"there is no user named {user!r} on this machine") from None
    if entry.pw_uid == 0:
        raise CannotServe(f"the server does not run as root: {user!r} must be another user")
    if directory is not None:
        try:
            _hand_over(directory, entry.pw_uid, entry.pw_gid)
        except OSError as error:
            raise CannotServe(f"cannot give {directory} to {user}: {error.strerror}") from error
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    if os.getresuid() != (entry.pw_uid,) * 3 or os.getresgid() != (entry.pw_gid,) * 3:
        raise CannotServe(f"could not become {user}")
    os.environ.update(HOME="/", USER=user, LOGNAME=user)
    os.chdir("/")


def _hand_over(directory: Path, uid: int, gid: int) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.is_symlink() or not directory.is_dir():
        raise CannotServe(f"{directory} is no directory")
    entries = {entry.name for entry in directory.iterdir()}
    if entries and "clickhouse" not in entries:
        raise CannotServe(f"{directory} holds other files: name a directory that is empty or does not exist")
    owner = directory.stat().st_uid
    if owner == uid:
        return
    if owner != 0:
        raise CannotServe(f"{directory} belongs to another user: give it to the server's, or name another")
    os.chown(directory, uid, gid)
    for name in entries & {"clickhouse", "inserts"}:
        for folder, folders, inside in os.walk(directory / name):
            for inner in (".", *folders, *inside):
                os.chown(os.path.join(folder, inner), uid, gid, follow_symlinks=False)


def _error(request: Request, status: int, message: str) -> Response:
    path = request.url.path
    if path.startswith("/debug/pprof/"):
        return pprof_endpoint.error(status, message)
    if path.startswith(_FOR_PROGRAMS) or path.endswith(_NOT_PAGES):
        return JSONResponse({"error": message}, status)
    return HTMLResponse(render("error.html", ErrorPage(status, message)), status)


def _answer_with(status: int) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        return _error(request, status, str(error))

    return answer


def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {404: "There is no such page.", 405: "This address does not take this method."}
    answer = _error(request, error.status_code, sentences.get(error.status_code, str(error.detail)))
    answer.headers.update(error.headers or {})  # such as Allow, which methods there are
    return answer


def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: Any = error.errors()[0]
    return _error(request, 400, f"{first['loc'][-1]}: {first['msg'][0].lower()}{first['msg'][1:]}")


class _Mistakes:
    """Answers what nobody caught; the log has it all, the answer one sentence."""

    def __init__(self, app: auth.App) -> None:
        self._app = app

    async def __call__(self, scope: auth.Scope, receive: auth.Receive, send: auth.Send) -> None:
        started = False

        async def watched(message: auth.Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            if started or scope["type"] != "http":
                raise
            log.exception("%s %s", scope["method"], scope["path"])
            answer = _error(Request(scope), 500, "The server made a mistake; its log says which.")
            await answer(scope, receive, send)
