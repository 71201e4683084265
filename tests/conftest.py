"""A store of its own for each test, and a server that is asked in the same process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from web.app import ServerOptions, create_app
from web.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path}/store")
    yield store
    store.close()


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    app = create_app(store, ServerOptions(store.url, commit_seconds=0))
    with TestClient(app, "http://127.0.0.1", follow_redirects=False) as client:
        yield client
