"""Containers and services by the names that engines and systemd give their cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from profiler import cgroups, events
from profiler.cgroups import Cgroups, Workload, cgroup_id, workload_of

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("path", "workload"),
    [
        ("/", Workload()),
        ("/user.slice/user-0.slice/session-1.scope", Workload()),
        ("/system.slice/nginx.service", Workload("nginx")),
        (f"/system.slice/docker-{ID}.scope", Workload("", ID)),
        (f"/docker/{ID}", Workload("", ID)),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", Workload("", ID)),
        (f"/system.slice/docker-{ID}.scope/system.slice/db.service", Workload("db", ID)),
        ("/user.slice/user@0.service/app.slice/my.service", Workload("my")),
    ],
)
def test_service_and_container_are_read_from_the_path(path: str, workload: Workload) -> None:
    assert workload_of(path) == workload


def test_ids_are_those_of_the_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    os.makedirs(f"{root}/system.slice/nginx.service/worker")
    open(f"{root}/cgroup.controllers", "w").close()
    monkeypatch.setattr(cgroups, "_ROOTS", (root,))
    known = Cgroups()
    inner = os.stat(f"{root}/system.slice/nginx.service/worker").st_ino
    assert known.workload(inner) == Workload("nginx")
    assert cgroup_id("system.slice/nginx.service/worker") == inner
    assert known.workload(1 << 60) == Workload()
    with pytest.raises(OSError):
        cgroup_id("no/such")


def test_lists_of_online_cpus_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "online"
    monkeypatch.setattr(events, "_ONLINE", file)
    for text, cpus in (("0\n", {0}), ("0-3\n", {0, 1, 2, 3}), ("0,2-3,8\n", {0, 2, 3, 8})):
        file.write_text(text)
        assert events.online_cpus() == cpus
