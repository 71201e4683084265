"""Which container or service a cgroup id stands for, by the path of the cgroup in the v2 hierarchy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

_ROOTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
_CONTAINER = re.compile(r"[0-9a-f]{64}")
_UNIT = re.compile(r"([^/]+)\.service(?:/|$)")
_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Workload:
    """What a process belongs to: a service (systemd's unit) and a container (its 64-digit id), "" for none."""

    service: str = ""
    container: str = ""


class Cgroups:
    """Remembers the workload of every cgroup id it met."""

    def __init__(self) -> None:
        self._known: dict[int, Workload] = {}

    def workload(self, cgroup: int) -> Workload:
        """Of a cgroup id, which is the inode of its directory. An id that was never seen rereads the tree once."""
        known = self._known.get(cgroup)
        if known is None:
            if len(self._known) > _MOST:
                self._known.clear()
            for number, path in _directories():
                self._known.setdefault(number, workload_of(path))
            known = self._known.setdefault(cgroup, Workload())
        return known


def cgroup_id(path: str) -> int:
    """The id of a cgroup by its directory, or by its path below the v2 hierarchy. Raises OSError."""
    if not path.startswith(_ROOTS):
        path = os.path.join(_root(), path.lstrip("/"))
    return os.stat(path).st_ino


def cgroup_ids(path: str) -> frozenset[int]:
    """The ids of a cgroup by its path below the v2 hierarchy, and of all cgroups in it. Raises OSError."""
    root = _root()
    inside = os.path.normpath("/" + path.removeprefix(root))  # whatever dots there are lead no further up than that
    os.stat(root + inside)
    return frozenset(number for number, _ in _directories(inside.rstrip("/")))


def workload_of(path: str) -> Workload:
    """As container engines and systemd name their cgroups: .../docker-<64 hex>.scope, .../nginx.service."""
    container = _CONTAINER.search(path)
    units = _UNIT.findall(path)
    return Workload(units[-1] if units else "", container[0] if container else "")


def _root() -> str:
    """Where cgroup2 is mounted: below cgroup v1's directory on hybrid systems."""
    return next((root for root in _ROOTS if os.path.exists(f"{root}/cgroup.controllers")), _ROOTS[-1])


def _directories(below: str = "") -> Iterator[tuple[int, str]]:
    root = _root()
    waiting = [root + below]
    while waiting:
        path = waiting.pop()
        try:
            yield os.stat(path).st_ino, path.removeprefix(root)
            with os.scandir(path) as entries:
                waiting.extend(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError:
            continue
