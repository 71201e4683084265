"""`pilotlight check`: what sampling needs of this host, whether it is met, and what to do where it is not."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from profiler import events
from profiler.bcc import BccSampler, find_headers
from profiler.libbpf import BpfError
from profiler.records import RecordStream
from profiler.sampler import BTF, Sampler, kernel_version

_CAPABILITIES = {
    "CAP_PERFMON": (38, "perf events of the whole system, and reading stacks"),
    "CAP_BPF": (39, "loading BPF programs"),
    "CAP_SYS_PTRACE": (19, "reading other users' binaries through /proc/PID/root"),
    "CAP_SYSLOG": (34, "the addresses of kernel symbols"),
}
_CAP_SYS_ADMIN = 21
_WALKS = {
    "on_tick": "by unwind tables, in one loop (bpf_loop)",
    "on_tick_bounded": "by unwind tables, in bounded steps and at most 264 frames (this kernel has no bpf_loop)",
}


@dataclass(frozen=True, slots=True)
class Requirement:
    """`met` None: optional and absent. `advice` is what to do where it is not met, else ""."""

    name: str
    met: bool | None
    found: str
    advice: str = ""


def requirements() -> Iterator[Requirement]:
    """Each requirement in turn, tried for real where that is possible."""
    yield _kernel()
    yield _btf()
    yield from _capabilities()
    yield _lockdown()
    yield _sampler()
    yield _bcc()
    yield _tried("process records", "MMAP2, COMM, FORK and EXIT records of each CPU", _try_records)
    yield _rate()
    yield _kernel_symbols()
    yield _cgroups()
    yield _server()


def report(found: list[Requirement]) -> str:
    """The requirements as a table for people."""
    mark = {True: "ok", False: "NOT MET", None: "optional"}
    width = max(len(requirement.name) for requirement in found)
    lines = []
    for requirement in found:
        lines.append(f"{mark[requirement.met]:8}  {requirement.name:{width}}  {requirement.found}")
        if requirement.advice:
            lines.append(f"{'':8}  {'':{width}}  → {requirement.advice}")
    return "\n".join(lines)


def _kernel() -> Requirement:
    met = kernel_version() >= (5, 8)
    advice = "" if met else "Use kernel 5.8 or newer, best 6.1: older ones need their BPF memory up front."
    return Requirement("kernel", met, os.uname().release, advice)


def _btf() -> Requirement:
    met = os.path.exists(BTF)
    advice = "" if met else "Use a kernel built with CONFIG_DEBUG_INFO_BTF=y; without it the bcc backend is used."
    return Requirement("BTF", met or None, "/sys/kernel/btf/vmlinux" + ("" if met else " is missing"), advice)


def _capabilities() -> Iterator[Requirement]:
    held = int(re.findall(r"CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text())[0], 16)
    for name, (number, purpose) in _CAPABILITIES.items():
        met = bool(held >> number & 1 or held >> _CAP_SYS_ADMIN & 1 and number != 34)
        advice = "" if met else f"Run as root, or give {name}, which is for {purpose}."
        yield Requirement(name, met, purpose, advice)


def _lockdown() -> Requirement:
    try:
        text = Path("/sys/kernel/security/lockdown").read_text()
    except OSError:
        return Requirement("lockdown", True, "none")
    mode = (re.findall(r"\[(\w+)\]", text) or ["unknown"])[0]
    met = mode != "confidentiality"
    return Requirement("lockdown", met, mode, "" if met else "Boot with lockdown=integrity or none.")


def _tried(name: str, found: str, attempt: Callable[[], None]) -> Requirement:
    try:
        attempt()
    except (BpfError, events.EventError, OSError) as error:
        return Requirement(name, False, "does not start", str(error))
    return Requirement(name, True, found)


def _sampler() -> Requirement:
    try:
        by_tables = os.uname().machine == "x86_64"
        with contextlib.closing(Sampler(99, unwind_bytes=by_tables << 20)) as sampler:
            walk = _WALKS[sampler.tick_program] if by_tables else "by frame pointers alone"
    except (BpfError, events.EventError, OSError) as error:
        return Requirement("sampler", False, "does not start", str(error))
    return Requirement("sampler", True, f"BPF program loaded, perf event on each CPU; user stacks {walk}")


def _bcc() -> Requirement:
    """The backend that is for kernels without BTF: tried where it would be needed, else looked for."""
    if not os.path.exists(BTF):
        return _tried("bcc backend", "compiled and loaded; user stacks by frame pointers alone", BccSampler(99).close)
    try:
        headers = find_headers()
    except BpfError as error:
        return Requirement("bcc backend", None, "not needed here", str(error))
    return Requirement("bcc backend", True, f"not needed here; headers in {headers.archive or headers.folders[0]}")


def _try_records() -> None:
    RecordStream().close()


def _rate() -> Requirement:
    highest = events.max_sample_rate()
    advice = "" if highest >= 99 else "Raise it with `sysctl kernel.perf_event_max_sample_rate=10000`."
    return Requirement("sampling rate", highest >= 99, f"up to {highest:,} Hz", advice)


def _kernel_symbols() -> Requirement:
    with open("/proc/kallsyms", "rb") as file:
        line = file.readline()
    met = bool(line) and not line.startswith(b"0000000000000000")
    advice = "" if met else "Run `sysctl kernel.kptr_restrict=1` (2 hides them even from CAP_SYSLOG), or as root."
    return Requirement("kernel symbols", met, "/proc/kallsyms" + ("" if met else " shows no addresses"), advice)


def _cgroups() -> Requirement:
    roots = [root for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if os.path.exists(f"{root}/cgroup.procs")]
    met = any(os.path.exists(f"{root}/cgroup.controllers") for root in roots)
    if met:
        return Requirement("cgroup v2", True, "containers and services are told apart")
    return Requirement("cgroup v2", None, "not mounted", "Mount it to have containers and services told apart.")


def _server() -> Requirement:
    missing = [name for name in ("chdb", "clickhouse_connect", "fastapi", "uvicorn") if not _installed(name)]
    if not missing:
        return Requirement("server", True, "its packages are installed")
    advice = "To run the server here too: pip install 'pilotlight[server]'."
    return Requirement("server", None, f"not installed: {', '.join(missing)}", advice)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
