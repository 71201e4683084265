"""The sampler for kernels without BTF: compiled by bcc in a child process, by frame pointers alone.

The child (bcc_child.py) passes the fds of its maps and programs (SCM_RIGHTS) and ends, and with it the
compiler's memory. What it compiles is bpf/sampler.bcc.c.
"""

from __future__ import annotations

import ctypes as c
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler import events, maps
from profiler.libbpf import BpfError, library
from profiler.sampler import Filters, RawWindow, Sampler, memlock
from profiler.stacks import MAX_FRAMES, STACK, Stacks, to_look_up

# The ids of bpf/sampler.bcc.c.
_IS_ASIDE = np.uint64(1 << 63)
_TRACE_ID = np.uint64((1 << 32) - 1)
_MAPS = ("stacks_0", "stacks_1", "aside_0", "aside_1", "counts_0", "counts_1")
_SMALL_MAPS = ("counters", "generation", "scratch", "cpu_kinds", "pids", "cgroups")

_SOURCE = Path(__file__).parent / "bpf" / "sampler.bcc.c"
_CHILD = Path(__file__).with_name("bcc_child.py")
_PYTHON = "/usr/bin/python3"  # bcc comes as a package of the distribution, for its own Python
_LONGEST_SECONDS = 60.0
_FEWEST_ENTRIES, _MOST_ENTRIES = 1 << 12, 1 << 14
_MAX_STACK = Path("/proc/sys/kernel/perf_event_max_stack")


class BccSampler(Sampler):
    """As Sampler. Raises BpfError with a sentence also where bcc or kernel headers are missing.

    The id of a stack in a stack-trace map is a hash cut to the map's size n, a power of two. Of k distinct
    stacks in a window, k - n (1 - e^(-k/n)) find their id taken, which is at most 0.37 n for k ≤ n; for them
    there is room for n / 2 in a hash map. So while n is at least two for each tick of a window (a kernel and a
    user stack), nothing is lost, however different the stacks are: 10 s at 99 Hz on two CPUs are 1,980 ticks,
    n is 4,096. The maps take their memory up front, 7.5 MB for each 4,096 and generation; n ends at 16,384 (8
    CPUs), beyond which windows with more than some 19,000 distinct stacks lose ticks by "stack id collision".
    """

    def drain(self, next_hz: int = 0) -> RawWindow:
        raw = super().drain(next_hz)
        return replace(raw, stacks=_by_process(raw))

    def locked_bytes(self) -> int:
        return sum(memlock(self._object.map_fd(name)) for name in _MAPS + _SMALL_MAPS)

    def _load(self, filters: Filters, window_seconds: float, unwind_bytes: int) -> CompiledProgram:
        ticks = int(self.hz * window_seconds * len(events.online_cpus()))
        entries = min(max(1 << (2 * ticks).bit_length(), _FEWEST_ENTRIES), _MOST_ENTRIES)
        return compile_sampler(filters, entries)

    def _warm_up(self, cpu: int) -> None:
        """Nothing to do: all maps here take their memory up front."""

    def _drain_stacks(self, generation: int) -> Stacks:
        """Stacks under the kernel's ids: those of the stack-trace map plus one, and the marked ones kept aside."""
        traces = _take_traces(self._object.map_fd(f"stacks_{generation}"))
        aside = maps.drain(self._object.map_fd(f"aside_{generation}"), np.dtype("<u8"), STACK)
        return to_look_up(itertools.chain([traces], aside))


def _by_process(raw: RawWindow) -> Stacks:
    """The stacks under the ids that the samples' keys have, where each user stack is of one process.

    Processes that run the same code at the same addresses share a stack in the kernel's stack-trace map; the key
    has the process above the 32 bits of its id.
    """
    ids = np.unique(np.concatenate([raw.keys["kernel_stack"], raw.keys["user_stack"]]))
    at = raw.stacks.find(np.where(ids & _IS_ASIDE, ids, ids & _TRACE_ID))
    ids, at = ids[at >= 0], at[at >= 0]
    starts = raw.stacks.offsets[at]
    lengths = raw.stacks.offsets[at + 1] - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Stacks(ids, offsets, raw.stacks.addresses[index], raw.stacks.ends[at], raw.stacks.by_frame_pointer[index])


def _take_traces(fd: int) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    """Takes all stacks out of a stack-trace map: their ids plus one, and the stacks as STACK.

    One by one, as the kernel does not give these maps out in batches (ENOTSUPP).
    """
    call = library()
    keys, traces = [], []
    key, following = c.c_uint32(), c.c_uint32()
    trace = (c.c_uint64 * MAX_FRAMES)()
    more = call.bpf_map_get_next_key(fd, None, c.byref(following)) == 0
    while more:
        key.value = following.value
        # Asked for before the key goes: from a key that is not there, the kernel would start over.
        more = call.bpf_map_get_next_key(fd, c.byref(key), c.byref(following)) == 0
        if call.bpf_map_lookup_elem(fd, c.byref(key), trace) == 0:
            keys.append(key.value + 1)
            traces.append(bytes(trace))
        call.bpf_map_delete_elem(fd, c.byref(key))
    stacks = np.zeros(len(keys), STACK)
    addresses = np.frombuffer(b"".join(traces), "<u8").reshape(len(keys), MAX_FRAMES)
    stacks["addresses"] = addresses
    # The kernel fills up with zeros, and a return address of 0 is no frame, it marks the root.
    stacks["length"] = ((addresses != 0) * np.arange(1, MAX_FRAMES + 1)).max(axis=1)
    return np.array(keys, np.uint64), stacks


class CompiledProgram:
    """The maps and programs that a child handed over, by name, until close()."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self._fds = dict(fds)

    def map_fd(self, name: str) -> int:
        return self._fds[name]

    def program_fd(self, name: str) -> int:
        return self._fds[name]

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])


def compile_sampler(filters: Filters, entries: int, *, root: Path = Path("/")) -> CompiledProgram:
    """Has a child compile and load the sampler, with stack maps for `entries` stacks. Raises BpfError.

    Kernel headers are looked for below `root`. The filters are switched on and, for pids, followed; their
    values are for the caller to put into the maps.
    """
    highest = int(_MAX_STACK.read_text())
    if highest < MAX_FRAMES:
        raise BpfError(
            f"The kernel keeps only {highest} frames of a stack, {MAX_FRAMES} are needed: run "
            f"`sysctl kernel.perf_event_max_stack={MAX_FRAMES}` while no program uses perf events."
        )
    headers = find_headers(root)
    constants = {
        "STACK_ENTRIES": entries,
        "ASIDE_ENTRIES": entries // 2,
        "COUNT_ENTRIES": 2 * entries,
        "FILTER_PIDS": bool(filters.pids),
        "FILTER_CGROUPS": bool(filters.cgroups),
        "FOLLOW_CHILDREN": filters.children,
    }
    with tempfile.TemporaryDirectory(prefix="pilotlight-headers-") as unpacked:
        request = {
            "source": str(_SOURCE),
            "flags": [f"-D{name}={value:d}" for name, value in constants.items()],
            "headers": [str(folder) for folder in headers.folders] or [unpacked],
            "archive": str(headers.archive or ""),
            "programs": ["on_tick"],
            "maps": _MAPS + _SMALL_MAPS,
            "tracepoints": bool(filters.pids or filters.children),
        }
        return CompiledProgram(_have_child_do(request))


@dataclass(frozen=True, slots=True)
class Headers:
    """Folders of kernel headers, the first with include/linux/kconfig.h; or an archive that holds such a folder."""

    folders: tuple[Path, ...] = ()
    archive: Path | None = None


def find_headers(root: Path = Path("/"), release: str = "") -> Headers:
    """The running kernel's headers, or else the newest of any kernel. Raises BpfError where there are none.

    Another kernel's do, as the program reads nothing but what UAPI promises.
    """
    release = release or os.uname().release
    modules, archive = root / "lib/modules", root / "sys/kernel/kheaders.tar.xz"
    own = _folders(root, modules / release / "build", modules / release / "source")
    if own:
        return Headers(own)
    if archive.is_file():
        return Headers(archive=archive)
    trees = [*root.glob("usr/src/linux-headers-*"), *root.glob("usr/src/kernels/*"), *modules.glob("*/build")]
    for tree in sorted(trees, key=_version, reverse=True):
        folders = _folders(root, tree)
        if folders:
            return Headers(folders)
    raise BpfError(
        f"The bcc backend needs kernel headers, and there are none in /lib/modules/{release}/build, "
        f"/sys/kernel/kheaders.tar.xz or /usr/src: install them ({_install_headers()})."
    )


def _folders(root: Path, build: Path, source: Path | None = None) -> tuple[Path, ...]:
    """The folders that make up a kernel's headers, from the one it was built in; () where they are incomplete.

    Distributions may split what the build made from its source: there the Makefile names the latter.
    """
    arch = _arch()
    generated = build / "arch" / arch / "include/generated"
    if not (build / "include/generated/autoconf.h").is_file() or not generated.is_dir():
        return ()
    candidates = [build, *([source] if source else [])]
    try:
        named = re.search(r"^include\s+(\S+)/Makefile\s*$", (build / "Makefile").read_text(errors="replace"), re.M)
    except OSError:
        named = None
    if named:
        candidates.append(root / named[1].lstrip("/") if named[1].startswith("/") else build / named[1])
    for folder in candidates:
        if (folder / "include/linux/kconfig.h").is_file() and (folder / "arch" / arch / "include").is_dir():
            return (folder,) if folder == build else (folder, build)
    return ()


def _arch() -> str:
    """This machine's folder in the kernel's arch/."""
    machine = os.uname().machine
    return {"x86_64": "x86", "aarch64": "arm64"}.get(machine, machine)


def _version(tree: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(tree))]


def _have_child_do(request: Mapping[str, object]) -> dict[str, int]:
    """The fds that the child answers the request with, by name. Raises BpfError; the child has ended either way."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, tempfile.TemporaryFile() as messages:
        child = subprocess.Popen(
            [_python(), "-I", str(_CHILD), str(theirs.fileno()), json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            pass_fds=[theirs.fileno()],
            env={"PATH": os.defpath},  # bcc heeds variables that would have it compile something else
            start_new_session=True,  # Ctrl-C is for the agent alone
        )
        try:
            theirs.close()
            ours.settimeout(_LONGEST_SECONDS)
            data, fds, _, _ = socket.recv_fds(ours, 1 << 16, 64, socket.MSG_CMSG_CLOEXEC)
            answer = json.loads(data) if data else {"failed": "died", "why": _ending(child)}
        except TimeoutError:
            answer = {"failed": "time", "why": ""}
        finally:
            child.kill()
            child.wait()
        messages.seek(0)
        printed = messages.read(1 << 20).decode(errors="replace")
    if "names" in answer:
        return dict(zip(answer["names"], fds, strict=True))
    raise BpfError(_explain(answer["failed"], answer["why"], printed, request))


def _python() -> str:
    return _PYTHON if os.path.exists(_PYTHON) else sys.executable


def _ending(child: subprocess.Popen[bytes]) -> str:
    code = child.wait(_LONGEST_SECONDS)
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _explain(failed: str, why: str, printed: str, request: Mapping[str, Any]) -> str:
    """One sentence on what the child could not do."""
    headers = request["archive"] or request["headers"][0]
    if failed == "bcc":
        return (
            f"The bcc backend needs bcc, which cannot be imported by {_python()}: install it (Debian: "
            "apt-get install python3-bpfcc)."
        )
    if failed == "headers":
        return f"The kernel headers in {headers} cannot be unpacked ({why}): install them ({_install_headers()})."
    if failed == "tracefs":
        return (
            f"To follow processes the bcc backend needs tracefs, which cannot be mounted here ({why}): run "
            "`mount -t tracefs tracefs /sys/kernel/tracing` as root."
        )
    if failed == "time":
        return f"bcc did not have the sampler ready in {_LONGEST_SECONDS:.0f} seconds: try again on an idle machine."
    if failed == "died":
        last = printed.strip().rpartition("\n")[2][:200]
        ending = ": ".join(filter(None, [why, last]))
        return (
            f"The process that runs bcc ended before the sampler was ready ({ending}); if it was killed, free some "
            "memory."
        )
    refused = re.search(r"could not (?:open|create) bpf map: .*?error: (.+)", printed)
    if failed == "load" or refused:
        return (
            f"The kernel did not accept what bcc compiled ({refused[1] if refused else why}): run as root, or with "
            "CAP_BPF and CAP_PERFMON."
        )
    error = re.search(r"error: (.{1,200})", printed)
    return (
        f"bcc cannot compile the sampler with the kernel headers in {headers} ({error[1] if error else why}): install "
        f"this kernel's own ({_install_headers()})."
    )


def _install_headers() -> str:
    machine = os.uname().machine
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    return f"Debian: apt-get install linux-headers-{arch}"
