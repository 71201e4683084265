"""Which version of the schema a store has, and what brings it up to the present one.

A new store is made by schema.sql as a whole. An older one is brought up by migration_1.sql, migration_2.sql, … in turn.
Each is written so that it may be interrupted anywhere and started again from its beginning, and the version is noted
after it: a death in between means that the next start does it once more. Nothing else uses the store meanwhile. Stores
from before versions were noted have version 0.

A migration is never edited after it was released, nor does it use schema.sql, which goes on.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

from clickhouse_connect.driver.client import Client

from web.store.ddl import statements, text_of

VERSION: Final = 3
# Read now: the server may not be able to read its own files later.
SCHEMA: Final = text_of("schema.sql")
MIGRATIONS: Final = {version: text_of(f"migration_{version}.sql") for version in range(1, VERSION + 1)}
_VERSIONS: Final = """CREATE TABLE IF NOT EXISTS versions (version UInt32, at DateTime('UTC') DEFAULT now())
ENGINE = MergeTree ORDER BY version SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
"""
_NOTE: Final = "INSERT INTO versions (version) VALUES ({:d})"
# A store's whole history may pass through: no limit of time, and days by the hundred in one insert.
_PATIENT: Final[dict[str, Any]] = {"max_execution_time": 0, "max_partitions_per_insert_block": 0}

log = logging.getLogger("pilotlight.store")


class CannotBringUp(Exception):
    """The store is of another kind or a newer version; the message ends a sentence for people."""


def bring_up(client: Client, database: str, cluster: str = "") -> None:
    """Give the database of `client` the present schema, whatever version it has. Raises CannotBringUp."""
    tables = client.query(
        "SELECT name, engine FROM system.tables WHERE database = {database:String}", {"database": database}
    )
    engines: dict[str, str] = {name: engine for name, engine in tables.result_rows}
    if "samples" in engines and (engines["samples"] == "Distributed") != bool(cluster):
        how = "with ?cluster=NAME" if not cluster else "without ?cluster="
        raise CannotBringUp(f"its tables were made {how}: open it so, or choose another database")
    versions = client.query("SELECT max(version) FROM versions").result_rows[0][0] if "versions" in engines else 0
    if versions > VERSION:
        raise CannotBringUp(
            f"it was written by a newer pilotlight (its schema is version {versions}, this one knows {VERSION}):"
            " use that one"
        )
    if cluster and "samples" in engines and not versions:
        raise CannotBringUp("its version is not noted: run the script that makes a cluster's tables as a whole")
    for statement in statements(_VERSIONS, database, cluster):
        client.command(statement)
    if not versions and "samples" not in engines:
        # Noted first: a new store whose making was interrupted must not be taken for one of version 0.
        _note(client, VERSION)
        versions = VERSION
    for version in range(versions + 1, VERSION + 1):
        log.warning("bringing the store up to version %d of its schema; this may take minutes", version)
        for statement in statements(MIGRATIONS[version], database, cluster):
            client.command(statement, settings=_PATIENT)
        _note(client, version)
    for statement in statements(SCHEMA, database, cluster):
        client.command(statement)


def cluster_script(database: str, cluster: str) -> str:
    """What bring_up() says to a new cluster, for operators who make tables themselves."""
    made = [
        f"CREATE DATABASE IF NOT EXISTS {database} ON CLUSTER '{cluster}' ENGINE = Atomic",
        f"USE {database}",
        *statements(_VERSIONS, database, cluster),
        _NOTE.format(VERSION),
        *statements(SCHEMA, database, cluster),
    ]
    return "".join(f"{statement};\n\n" for statement in made)


def _note(client: Client, version: int) -> None:
    client.command(_NOTE.format(version))


if __name__ == "__main__":
    print(cluster_script(*sys.argv[1:]), end="")
