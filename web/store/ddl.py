"""The schema's statements, for one engine or for a cluster of them.

The text of schema.sql is for one engine. On a cluster each of its tables becomes two: NAME_local, replicated within
each shard, and NAME, Distributed over all shards, which readers and the writer use. Views lead from one local table to
another: a row and what a rollup makes of it are on the same shard.

What belongs together without being joined need not be on one shard: stacks, frames and other tables of content are read
by id. Pushes are all on one shard, since one block of them, written at once, is what makes a commit whole.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

_BY_HOST: Final = "cityHash64(service, host)"
SHARDED_BY: Final = {
    "samples": _BY_HOST,
    "series_1m": _BY_HOST,
    "stacks_1h": _BY_HOST,
    "functions_1h": _BY_HOST,
    "windows": "cityHash64(host)",
    "stacks": "id",
    "frames": "id",
    "names": "id",
    "label_sets": "id",
    "functions": "id",
    "captures": "cityHash64(id)",
    "capture_profiles": "cityHash64(id)",
    "annotations": "cityHash64(id)",
    "pushes": "0",
    "function_hours": "0",
    "versions": "0",
}
_TABLE: Final = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+)")
_VIEW: Final = re.compile(r"CREATE MATERIALIZED VIEW IF NOT EXISTS (\w+) TO (\w+) AS(.*)\bFROM (\w+)", re.DOTALL)
_ALTER: Final = re.compile(r"ALTER TABLE (\w+)\s+(ADD COLUMN [^\n]+?)(?:,\n\s+(MODIFY ORDER BY [^\n]+))?")
_DROP_VIEW: Final = re.compile(r"(DROP VIEW IF EXISTS \w+)( SYNC)")
_ENGINE: Final = re.compile(r"ENGINE = (\w*MergeTree)")


def text_of(name: str) -> str:
    """A file of SQL beside this one."""
    return (files("web.store") / name).read_text("utf-8")


def statements(sql: str, database: str, cluster: str = "") -> list[str]:
    """The statements of `sql`, which end with a semicolon at the end of a line; for `cluster` where one is named."""
    bare = [re.sub(r"(?m)^--.*\n?", "", part).strip().removesuffix(";") for part in sql.split(";\n")]
    found = [part for part in bare if part]
    return found if not cluster else [spread for part in found for spread in _spread(part, database, cluster)]


def _spread(statement: str, database: str, cluster: str) -> list[str]:
    table = _TABLE.match(statement)
    if table:
        name = table[1]
        local = _TABLE.sub(rf"CREATE TABLE IF NOT EXISTS \1_local ON CLUSTER '{cluster}'", statement)
        engine = f"Distributed('{cluster}', '{database}', '{name}_local', {SHARDED_BY[name]})"
        return [
            _ENGINE.sub(r"ENGINE = Replicated\1", local),
            f"CREATE TABLE IF NOT EXISTS {name} ON CLUSTER '{cluster}' AS {name}_local ENGINE = {engine}",
        ]
    view = _VIEW.match(statement)
    if view:
        made = rf"CREATE MATERIALIZED VIEW IF NOT EXISTS \1 ON CLUSTER '{cluster}' TO \2_local AS\3FROM \4_local"
        return [_VIEW.sub(made, statement)]
    altered = _ALTER.fullmatch(statement)
    if altered:
        name, column, order = altered.groups()
        there = f"ON CLUSTER '{cluster}' {column}"
        return [f"ALTER TABLE {name}_local {there}{f', {order}' if order else ''}", f"ALTER TABLE {name} {there}"]
    dropped = _DROP_VIEW.fullmatch(statement)
    if dropped:
        return [f"{dropped[1]} ON CLUSTER '{cluster}'{dropped[2]}"]
    raise ValueError(f"this cannot be said to a cluster: {statement[:80]}")
