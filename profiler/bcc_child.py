"""Compiles a BPF program with bcc, loads it, hands its maps and programs over, and ends.

profiler/bcc.py runs this file as a process of its own: the compiler's memory, 150 MB, goes when the process
does. The Python that runs it is the one bcc is installed for, which need not be pilotlight's; so nothing of
pilotlight is imported.

Arguments: the fd of a SOCK_SEQPACKET socket, and a request in JSON:
    source       the C file; its folder is searched for what it includes
    flags        for the compiler
    headers      folders of kernel headers, the first with include/linux/kconfig.h
    archive      or "": an archive of them (kheaders.tar.xz), to be unpacked into the only folder of `headers`
    programs     the functions to load as perf event programs; those at tracepoints attach by themselves
    maps         the maps to hand over
    tracepoints  whether there are functions at tracepoints
The answer is one message in JSON: {"names": […]} along with as many fds, or {"failed": WHAT, "why": TEXT} where
WHAT is "bcc", "headers", "tracefs", "compile" or "load". What bcc and clang print goes to stderr.
"""

from __future__ import annotations

import ctypes
import json
import lzma
import os
import socket
import sys
import tarfile
from typing import Any

_TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x4000 | 1 << 18
_PERF_EVENT = 7  # BPF_PROG_TYPE_PERF_EVENT


class Failed(Exception):
    """What failed, and why."""


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    try:
        fds = build(json.loads(sys.argv[2]))
    except Failed as failed:
        connection.send(json.dumps({"failed": failed.args[0], "why": failed.args[1]}).encode())
    else:
        socket.send_fds(connection, [json.dumps({"names": list(fds)}).encode()], list(fds.values()))
    sys.stderr.flush()
    os._exit(0)  # bcc's own way out would switch off the events at the tracepoints


def build(request: dict[str, Any]) -> dict[str, int]:
    """The fds of all that the request asks for, by name. Raises Failed."""
    folders = request["headers"]
    if request["archive"]:
        unpack_headers(request["archive"], folders[0])
    if request["tracepoints"]:
        show_tracefs()
    os.environ["BCC_KERNEL_SOURCE"] = folders[0]
    os.chdir(os.path.dirname(request["source"]))  # bcc has the compiler search where it is run
    try:
        from bcc import BPF  # type: ignore[import-not-found]
    except (ImportError, OSError, AttributeError) as error:  # OSError: without its library
        raise Failed("bcc", str(error)) from error
    with open(request["source"], encoding="utf-8") as file:
        text = file.read()
    try:
        module = BPF(text=text, cflags=request["flags"] + include_flags(folders[1:]))
    except Exception as error:  # bcc raises nothing more precise
        raise Failed("compile", str(error)) from error
    try:
        fds = {name: module.load_func(name, _PERF_EVENT).fd for name in request["programs"]}
        fds.update({name: module[name].map_fd for name in request["maps"]})
    except Exception as error:
        raise Failed("load", str(error)) from error
    fds.update({name.decode(): fd for name, fd in module.tracepoint_fds.items()})
    return fds


def include_flags(folders: list[str]) -> list[str]:
    """What bcc does for the first folder, for the others: the folders that the kernel's own Makefile names."""
    machine = os.uname().machine
    arch = {"x86_64": "x86", "aarch64": "arm64"}.get(machine, machine)
    below = [
        f"arch/{arch}/include",
        f"arch/{arch}/include/generated",
        f"arch/{arch}/include/generated/uapi",
        "include",
        "include/generated/uapi",
    ]
    return [f"-I{folder}/{path}" for folder in folders for path in below]


def unpack_headers(archive: str, folder: str) -> None:
    try:
        with tarfile.open(archive, "r:xz") as headers:
            headers.extractall(folder, [member for member in headers if member.isfile() or member.isdir()])
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
        raise Failed("headers", str(error)) from error


def show_tracefs() -> None:
    """Where nobody has mounted tracefs, mounts it for this process alone."""
    if any(os.path.exists(f"{folder}/events") for folder in _TRACEFS):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.unshare(_CLONE_NEWNS)
        or libc.mount(None, b"/", None, _MS_REC_PRIVATE, None)
        or libc.mount(b"tracefs", _TRACEFS[0].encode(), b"tracefs", 0, None)
    ):
        raise Failed("tracefs", os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main()
