"""The store: a ClickHouse database, embedded (chDB) or on a server, and the clients that talk to it."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import clickhouse_connect
from clickhouse_connect.driver._chdbclient import ChdbClient  # here, not at first use: see app.serve
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from web.store.asking import NobodyWaits, marked
from web.store.migrations import CannotBringUp, bring_up
from web.store.renamed import Renamed
from web.store.rowbinary import RowBinary

DATABASE: Final = "pilotlight"
_PASSING: Final = "inserts"
READERS: Final = 4
_MATCHED_AT_ONCE: Final = 2000  # texts in a query

# The embedded engine assumes a machine of its own; here it is a guest.
_ENGINE: Final = {
    "max_server_memory_usage": str(1 << 30),
    "mark_cache_size": str(64 << 20),
    "index_mark_cache_size": str(16 << 20),
    "primary_index_cache_size": str(64 << 20),
    "compiled_expression_cache_size": str(16 << 20),
    "query_condition_cache_size": str(8 << 20),
}
# One thread writes a block, so that an insert is one part of a partition; a mutation is over when it returns.
_SETTINGS: Final = {
    "max_insert_threads": 1,
    "mutations_sync": 2,
    "allow_nondeterministic_mutations": 1,
    "log_queries": 0,
    "prefer_column_name_to_alias": 1,
    "max_execution_time": 60,
    "max_memory_usage": 700 << 20,  # so that one query leaves room for others
    "insert_deduplicate": 0,  # see writer.py
}
# An insert is done when a majority of a shard's replicas have it, and every read sees all that is done.
_ON_CLUSTER: Final = {
    "distributed_foreground_insert": 1,
    "distributed_product_mode": "global",
    "insert_quorum": "auto",
    "insert_quorum_parallel": 0,
    "select_sequential_consistency": 1,
}

_CANNOT_COMPILE_REGEXP: Final = 427
_TOO_MUCH: Final = (159, 241)  # time and memory
_CANCELLED: Final = 394
_WAIT_S: Final = 30  # for a client that is free

log = logging.getLogger("pilotlight.store")


class StoreUnavailable(Exception):
    """The store cannot be opened or does not answer; the message is one sentence for people."""


class BadQuery(ValueError):
    """The store refuses what the caller asked for; the message is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The result of a query: names of the columns, and tuples."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def dicts(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class TableSize:
    """What a table takes on disk, and in how many parts it lies there."""

    name: str
    rows: int
    bytes: int
    parts: int


class Store:
    """A pool of clients on one database. Safe to use from any thread; each client serves one at a time.

    `horizon` is the newest batch that is whole. Every read of samples and windows is bounded by it, so
    that samples and their accounting always belong together, also while a commit is under way. `renamed` tells
    readers which names they have are no longer the best.
    """

    def __init__(self, url: str) -> None:
        """Open the store and bring its schema up to the present version. It is at chdb:///DIR or at
        clickhouse://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE][?secure=1&cluster=NAME]; http:// is the same, and https://
        is with secure=1.

        Raises StoreUnavailable.
        """
        self.url = url
        self.horizon = 0
        self.renamed = Renamed()
        self.directory: Path | None = directory_of(url)
        self._idle: queue.LifoQueue[Client] = queue.LifoQueue()
        self._clients: list[Client] = []
        self._lock = threading.Lock()
        self._ender: Client | None = None  # beside the pool, which is used up when it is needed most
        self._ending = threading.Lock()
        self._closed = False
        parts = urlsplit(url)
        self._database = unquote(parts.path.strip("/")) if parts.scheme != "chdb" else ""
        self._database = self._database or DATABASE
        self._cluster = parse_qs(parts.query).get("cluster", [""])[0] if self.directory is None else ""
        if not _plain(self._database):
            raise StoreUnavailable(f"{self._database!r} is no name for a database: use letters, digits and underscores")
        if self._cluster and not _plain(self._cluster.replace("-", "_")):
            raise StoreUnavailable(
                f"{self._cluster!r} is no name for a cluster: use letters, digits, underscores and hyphens"
            )
        try:
            if self.directory is not None:
                _prepare(self.directory)
            first = self._connect("")
            # The embedded engine's default database is not Atomic, so its tables could not be replaced safely.
            first.command(f"CREATE DATABASE IF NOT EXISTS {self._database}{self._everywhere} ENGINE = Atomic")
            first.close()
            self._put(self._connect(self._database))
            with self.client() as client:
                bring_up(client, self._database, self._cluster)
        except (ClickHouseError, StoreUnavailable, CannotBringUp, OSError) as error:
            self.close()
            reason = _reason(error.__cause__ or error)
            raise StoreUnavailable(f"cannot open the store {public(url)}: {reason}") from error

    @property
    def _everywhere(self) -> str:
        return f" ON CLUSTER '{self._cluster}'" if self._cluster else ""

    def _connect(self, database: str) -> Client:
        if self.directory is not None:
            return ChdbClient(
                path=str(self.directory / "clickhouse"),
                database=database or None,
                settings=_SETTINGS,
                chdb_options=_ENGINE,
            )
        parts = urlsplit(self.url)
        secure = parts.scheme == "https" or parse_qs(parts.query).get("secure") == ["1"]
        return clickhouse_connect.get_client(
            host=parts.hostname or "localhost",
            port=parts.port or (8443 if secure else 8123),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password or ""),
            secure=secure,
            database=database or "__default__",
            settings={**_SETTINGS, **(_ON_CLUSTER if self._cluster else {})},
        )

    def _put(self, client: Client) -> None:
        with self._lock:
            self._clients.append(client)
        self._idle.put(client)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client for one piece of work. What goes wrong with it is raised as BadQuery or StoreUnavailable."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        try:
            client = self._idle.get_nowait()
        except queue.Empty:
            with self._lock:
                room = len(self._clients) < READERS
            if room:
                self._put(self._connect(self._database))
            try:
                client = self._idle.get(timeout=_WAIT_S)
            except queue.Empty:
                raise StoreUnavailable("too much is asked of the store at once: try again in a moment") from None
        try:
            yield client
        except ClickHouseError as error:
            if getattr(error, "code", None) == _CANNOT_COMPILE_REGEXP:
                raise BadQuery(f"not a regular expression (RE2 syntax): {_regexp_reason(error)}") from error
            if getattr(error, "code", None) in _TOO_MUCH:
                raise BadQuery(
                    "this asks for more than the store may use at once: choose a shorter range, or one host"
                ) from error
            if getattr(error, "code", None) == _CANCELLED:
                raise NobodyWaits("whoever asked has gone") from error
            log.error("%s", _reason(error))
            raise StoreUnavailable("the store cannot answer at the moment; the server's log says why") from error
        finally:
            self._idle.put(client)

    def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> Rows:
        with self.client() as client:
            result = client.query(marked(sql), parameters=parameters)
            return Rows(tuple(result.column_names), [tuple(row) for row in result.result_rows])

    def raw(self, sql: str, parameters: dict[str, Any] | None = None) -> RowBinary:
        with self.client() as client:
            return RowBinary(client.raw_query(marked(sql), parameters=parameters, fmt="RowBinary"))

    def matching(self, values: Sequence[str], regex: str) -> set[str]:
        """Those of `values` that an expression (RE2) matches somewhere, by the engine: it takes linear time, whoever
        wrote the expression. Raises BadQuery."""
        fitting: set[str] = set()
        for at in range(0, len(values), _MATCHED_AT_ONCE):
            rows = self.rows(
                "SELECT value FROM (SELECT arrayJoin({values:Array(String)}) AS value)"
                " WHERE match(value, {regex:String})",
                {"values": list(values[at : at + _MATCHED_AT_ONCE]), "regex": regex},
            ).rows
            fitting.update(row[0] for row in rows)
        return fitting

    def end(self, mark: str) -> None:
        """End the queries that begin with `mark`, see asking.py. Raises StoreUnavailable."""
        try:
            with self._ending:
                if self._ender is None:
                    self._ender = self._connect(self._database)
                self._ender.command(
                    "KILL QUERY WHERE startsWith(query, {mark:String}) ASYNC", parameters={"mark": mark.rstrip()}
                )
        except ClickHouseError as error:
            raise StoreUnavailable(f"cannot end a query: {_reason(error)}") from error

    def command(self, sql: str, parameters: dict[str, Any] | None = None) -> None:
        with self.client() as client:
            client.command(sql, parameters=parameters)

    def alter(
        self,
        table: str,
        action: str,
        parameters: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """ALTER TABLE where its rows are."""
        local = f"{table}_local" if self._cluster else table
        with self.client() as client:
            client.command(f"ALTER TABLE {local}{self._everywhere} {action}", parameters, settings=settings)

    def insert(self, table: str, names: Sequence[str], types: Sequence[str], columns: Sequence[Any]) -> None:
        """Insert columns of equal length, as one block."""
        with self.client() as client:
            client.insert(
                table,
                columns,
                column_names=names,
                column_type_names=types,
                column_oriented=True,
                settings=None if self.directory is not None else {"query_id": f"{self._inserts}{uuid4()}"},
            )

    @property
    def _inserts(self) -> str:
        return f"insert into {self._database}: "

    def end_inserts(self) -> None:
        """End what a server may still be inserting for a client that is gone, and wait until it has."""
        if self.directory is None:
            self.command(f"KILL QUERY{self._everywhere} WHERE startsWith(initial_query_id, '{self._inserts}') SYNC")

    def create_statements(self) -> dict[str, str]:
        """How each table that holds rows was made, as the engine has it now."""
        rows = self.rows(
            "SELECT name, create_table_query FROM system.tables"
            " WHERE database = {db:String} AND engine LIKE '%MergeTree'",
            {"db": self._database},
        ).rows
        return {name.removesuffix("_local"): text for name, text in rows}

    def sizes(self) -> list[TableSize]:
        """The tables that hold something, largest first; of all replicas together where there are several."""
        parts = f"clusterAllReplicas('{self._cluster}', system.parts)" if self._cluster else "system.parts"
        rows = self.rows(
            f"SELECT table, sum(rows), sum(bytes_on_disk) AS on_disk, count() FROM {parts}"
            " WHERE active AND database = {db:String} GROUP BY table ORDER BY on_disk DESC, table",
            {"db": self._database},
        ).rows
        return [TableSize(row[0].removesuffix("_local"), *map(int, row[1:])) for row in rows]

    def bytes_on_disk(self) -> int:
        return sum(size.bytes for size in self.sizes())

    def close(self) -> None:
        self._closed = True
        with self._lock:
            clients, self._clients = self._clients, []
        with self._ending:
            clients += [self._ender] if self._ender else []
            self._ender = None
        for client in clients:
            with suppress(ClickHouseError, OSError):
                client.close()
        if self.directory is not None and tempfile.tempdir == os.fspath(self.directory / _PASSING):
            tempfile.tempdir = None


def directory_of(url: str) -> Path | None:
    """The data directory of a chdb:///DIR store, None for one on a server. Raises StoreUnavailable."""
    parts = urlsplit(url)
    if parts.scheme == "chdb":
        if parts.netloc or not parts.path.strip("/"):
            raise StoreUnavailable(f"{url!r} names no absolute directory: write chdb:///var/lib/pilotlight")
        return Path(unquote(parts.path))
    if parts.scheme in ("clickhouse", "http", "https") and parts.hostname:
        return None
    raise StoreUnavailable(
        f"{public(url)!r} is no store: give chdb:///DIRECTORY, or clickhouse://HOST[:PORT][/DATABASE] or the same with"
        " https://"
    )


def _plain(name: str) -> bool:
    return name.isascii() and name.replace("_", "").isalnum()


def public(url: str) -> str:
    """`url` without its password, for messages."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def _prepare(directory: Path) -> None:
    """Make the data directory, private to this user, with a place for inserts on their way to the engine."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    passing = directory / _PASSING
    shutil.rmtree(passing, ignore_errors=True)
    passing.mkdir(mode=0o700)
    # The embedded engine's client hands each insert over in a temporary file: beside the data, where there
    # is room or the insert could not succeed anyway, and where a killed process leaves nothing behind.
    tempfile.tempdir = os.fspath(passing)


def _reason(error: BaseException) -> str:
    text = str(error)
    if "Cannot lock file" in text:
        return "another process has it open; one server at a time can use a directory"
    if isinstance(error, PermissionError):
        return f"this user may not use {error.filename}"
    return text.split("\n")[0].split(" (version ")[0][:300]


def _regexp_reason(error: Exception) -> str:
    text = str(error)
    _, _, rest = text.partition("error: ")
    return (rest or text).split(". Look at")[0][:200]
