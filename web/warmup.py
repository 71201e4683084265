"""Runs through the program once, before the server gives up its rights.

Many modules load others only when first used; after that moment their files may be out of reach. What is
run here needs no store: opening one starts the engine's threads, which must not happen before the change
of user.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib
from typing import Any, Final

import numpy as np
from fastapi import FastAPI

from profiler.formats.by_extension import WRITERS
from profiler.formats.otlp import PushIdentity, read_otlp, read_otlp_json, write_otlp
from profiler.model import Accounting, Profile, Sample, Window, stack_table
from symbolizer.types import Binary, Frame, Kind, Location
from web.flamegraph.calltree import build_tree
from web.flamegraph.svg import Caption, write_svg
from web.ingest import decompress
from web.store import stacks
from web.store.ragged import Ragged
from web.store.stackcache import Stacks
from web.store.sums import Sums
from web.store.tree import tree_of

# Loaded by the store's clients and the web framework no sooner than at first use.
_MODULES: Final = (
    "chdb.state.sqlitelike",
    "clickhouse_connect.driver.httpclient",
    "clickhouse_connect.driver.npquery",
    "clickhouse_connect.datatypes.registry",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.unicode_escape",
    "multiprocessing.util",
    "pytz",
    "zoneinfo",
)


def warm_up(app: FastAPI) -> None:
    for name in _MODULES:
        try:
            importlib.import_module(name)
        except ImportError:  # not in every version
            continue
    app.openapi()
    asyncio.run(_requests(app))
    _profile()


async def _requests(app: FastAPI) -> None:
    """What can be answered without a store, and what fails without one."""
    for path, query in (
        ("/healthz", b""),
        ("/static/style.css", b""),
        ("/docs", b""),
        ("/login", b""),
        ("/openapi.json", b""),
        ("/nothing", b""),
        ("/api/v1/labels", b"limit=x"),
        ("/api/v1/series", b"from=x"),
    ):
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "root_path": "",
            "headers": [(b"host", b"localhost"), (b"authorization", b"Bearer")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 1),
        }

        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})

        async def send(message: Any) -> None:
            pass

        # Once, as from a client that then waits: some listen on for it to go away.
        await app(scope, messages.get, send)


def _profile() -> None:
    location = Location(1, Binary("/bin/x", "00"), (Frame("f", Kind.INLINED), Frame("g", Kind.NATIVE)))
    profile = Profile(
        "host",
        "cpu-clock",
        99,
        Window(10**18, 10**18 + 10**10),
        (Sample((location,), 1, "p", "t", 1),),
        Accounting(1, 1, 0, 0, 1),
    )
    for write in WRITERS.values():
        write(profile)
    write_svg(build_tree(stack_table(profile)), Caption("title"), script_href="/static/flamegraph.js")
    read_otlp(write_otlp(profile, PushIdentity("agent", 1, 1)), "host")
    read_otlp_json(b"{}", "host")
    decompress(gzip.compress(b"x"), "gzip", 10)
    one, both = Ragged(np.array([0], np.int32), np.array([0]), np.array([1])), np.array([0, 1], np.int32)
    distinct = Stacks(
        np.array([1], np.uint64),
        np.array([0]),
        one,
        one,
        [location],
        list(location.frames),
        [""] * 2,
        both,
        list(location.frames),
        [""] * 2,
        both.astype(np.int8),
        both,
        np.array([1], np.uint64),
    )
    counts = np.array([1])
    sums = Sums([("p", "t")], np.array([0]), np.array([0]), np.array([1], np.uint64), counts)
    stacks.table_of(sums, distinct)
    stacks.count_frames(sums, distinct)
    tree_of(sums, distinct, 1)
    np.unique(np.array([2, 1], np.uint64), return_inverse=True)
