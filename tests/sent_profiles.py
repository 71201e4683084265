"""What tests send over HTTP, and a server that is asked in the same process."""

from __future__ import annotations

import time

from fastapi.testclient import TestClient

from profiler.formats.otlp import PushIdentity, write_otlp
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location

INGEST = "/v1development/profiles"
PROTOBUF = {"content-type": "application/x-protobuf"}
START = int(time.time()) // 10 * 10 - 120


def profile(start: int = START, host: str = "web-1", comm: str = "nginx", count: int = 70) -> Profile:
    hot = Location(16, Binary("/usr/bin/nginx", "ab"), (Frame("ngx_parse", Kind.NATIVE),))
    kernel = Location(32, None, (Frame("vfs_read", Kind.KERNEL),))
    samples = (Sample((hot,), 7, comm, comm, count), Sample((kernel, hot), 7, comm, comm, 30))
    total = count + 30
    accounting = Accounting(1980, total + 1000, 995, 0, total, {"counts map full": 5}, count + 60)
    return Profile(host, "cpu-clock", 99, Window(start * 10**9, (start + 10) * 10**9), samples, accounting)


def body(profile: Profile, sequence: int | None = None) -> bytes:
    return write_otlp(profile, PushIdentity("agent", 1, sequence) if sequence is not None else None)


def push(client: TestClient, *profiles: Profile) -> None:
    for sequence, each in enumerate(profiles):
        assert client.post(INGEST, content=body(each, sequence), headers=PROTOBUF).status_code == 200


def stored(client: TestClient) -> int:
    return sum(int(row["samples"]) for row in client.get("/api/v1/hosts?from=now-1d").json())
