"""Compiles a loop of machine code and tells of it in a jitdump file, as perf's JVMTI agent does for Java.

jitdump.py SECONDS: writes jit-PID.dump to the working directory, prints a line, and runs for that much CPU time.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import sys
import time

# A function that counts down from 2^20: (code up to the loop, the loop, the return).
CODE = {
    "x86_64": (bytes.fromhex("b900001000"), bytes.fromhex("ffc975fc"), bytes.fromhex("c3")),
    "aarch64": (bytes.fromhex("0002a052"), bytes.fromhex("00040071e1ffff54"), bytes.fromhex("c0035fd6")),
}
NAME = b"Lcom/shop/Cart;total([J)J\0"
OWN, OTHER = b"com/shop/Cart.java\0", b"java/lang/Math.java\0"


def record(kind: int, body: bytes) -> bytes:
    return struct.pack("=2IQ", kind, 16 + len(body), time.monotonic_ns()) + body


def main(seconds: float) -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    before, loop, after = CODE[platform.machine()]
    code = before + loop + after
    memory.write(code)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    lines = struct.pack("=2Q", start, 3)
    for address, line, source in (
        (start, 20, OWN),
        (start + len(before), 130, OTHER),
        (start + len(before) + len(loop), 21, OWN),
    ):
        lines += struct.pack("=Q2I", address, line, 0) + source
    load = struct.pack("=2I4Q", os.getpid(), os.getpid(), start, start, len(code), 1) + NAME + code
    with open(f"jit-{os.getpid()}.dump", "w+b") as file:
        file.write(struct.pack("=6I2Q", 0x4A695444, 1, 40, 62, 0, os.getpid(), time.monotonic_ns(), 0))
        file.write(record(2, lines) + record(0, load))
        file.flush()
        marker = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
    print("ready", flush=True)
    function = ctypes.CFUNCTYPE(None)(start)
    while time.process_time() < seconds:
        function()
    marker.close()


main(float(sys.argv[1]))
