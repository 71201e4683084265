"""What the tests have a builder's process do in the place of what it is made for."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from symbolizer.builder import BuildError, in_memory
from symbolizer.debuginfo.symfile import pack_symfile
from symbolizer.debuginfo.symfile_process import Built
from symbolizer.files import open_beneath, read_at

Question = Mapping[str, Any]


def contents(question: Question, files: Sequence[int]) -> int:
    """The question, and what is in the files."""
    texts = [read_at(file, 0, 1000).decode() for file in files]
    return in_memory("answer", json.dumps([question, *texts]).encode())


def limits(question: Question, files: Sequence[int]) -> int:
    """What the process may use, and what it has inherited."""
    with open("/proc/self/oom_score_adj") as file:
        victim = int(file.read())
    found = {
        "nice": os.nice(0),
        "memory": resource.getrlimit(resource.RLIMIT_AS)[1],
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "victim": victim,
        "session": os.getsid(0) == os.getpid(),
        "files": len(os.listdir("/proc/self/fd")) - 1,  # without the one it is listed through
        "output": {os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)} == {"/dev/null"},
    }
    return in_memory("answer", json.dumps(found).encode())


def misbehave(question: Question, files: Sequence[int]) -> int:
    """Does what the question says."""
    match question["do"]:
        case "hang":
            time.sleep(1000)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "eat":
            bytearray(3 << 30)
        case "grow":
            grown.append(bytearray(600 << 20))  # address space alone, as it is never touched
        case "fail":
            raise LookupError("there is something wrong with it")
        case "refuse":
            raise BuildError("it is of no use", final=question["final"])
        case "talk":
            raise BuildError("words " * 20_000, final=True)
    return in_memory("answer", str(os.getpid()).encode())


grown: list[bytearray] = []


def build(binary: int, path: str, roots: Sequence[int], debuginfod: Sequence[str]) -> Built:
    """A symbol file with one function from 0x1000 on, called as the binary says after what to do:
    "symbols NAME [BYTES]", "passing NAME", "root PATH", or one of misbehave()."""
    do, *words = read_at(binary, 0, 1000).decode().split()
    if do == "none":
        raise BuildError("there is no debug information", final=False)
    if do == "garbage":
        return Built(b"no symbol file" * 20)
    if do == "root":
        file = open_beneath(roots[0], words[0])
        words = [read_at(file, 0, 100).decode()]
    elif do not in ("symbols", "passing"):
        misbehave({"do": do, "final": True}, [])
    filler = int(words[1]) if len(words) > 1 else 0
    strings = b"\0" + words[0].encode() + b"\0" + path.encode() + b"\0" + b"x" * filler
    nodes = np.array([[0, 0], [0, 1], [0, 2 + len(words[0])], [0, 7]], np.uint32)
    rows = np.array([0, 0x100], np.uint32), np.array([1, 0], np.uint32)
    return Built(pack_symfile(0x1000, *rows, list(nodes), strings), lasting=do != "passing")
