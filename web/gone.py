"""Ends what is computed for a client that has gone away: its queries in the engine, and what would follow them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from web.auth import App, Message, Receive, Scope, Send
from web.store.asking import CURRENT, Asking
from web.store.store import Store, StoreUnavailable

_AGAIN_S: Final = 0.5
_WAITING: Final = 2  # messages: an empty body, and that the client has gone
_ASKED_BY_POST: Final = "/querier.v1."


class EndWhenGone:
    """ASGI middleware, for questions alone: what is written is written, whoever waits for the answer."""

    def __init__(self, app: App, store: Callable[[], Store]) -> None:
        self._app = app
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asks = scope["type"] == "http" and (scope["method"] == "GET" or scope["path"].startswith(_ASKED_BY_POST))
        if not asks:
            await self._app(scope, receive, send)
            return
        asking = Asking()
        # Bounded: whoever sends a body that nobody reads waits, and fills no memory.
        messages: asyncio.Queue[Message] = asyncio.Queue(_WAITING)
        gone = asyncio.Event()

        async def listen() -> None:
            while not gone.is_set():
                message = await receive()
                if message["type"] == "http.disconnect":
                    gone.set()
                await messages.put(message)

        async def end() -> None:
            await gone.wait()
            asking.gone = True
            while True:  # a query may have been on its way to the engine
                with suppress(StoreUnavailable):
                    await asyncio.to_thread(self._store().end, asking.mark)
                await asyncio.sleep(_AGAIN_S)

        tasks = [asyncio.create_task(listen()), asyncio.create_task(end())]
        token = CURRENT.set(asking)
        try:
            await self._app(scope, messages.get, send)
        finally:
            CURRENT.reset(token)
            for task in tasks:
                task.cancel()
