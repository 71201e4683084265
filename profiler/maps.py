"""BPF maps read into numpy arrays, many elements per system call."""

from __future__ import annotations

import ctypes as c
import errno
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.libbpf import BpfError, library, possible_cpus

_BATCH = 1024
_BATCH_BYTES = 96 << 10  # malloc() has larger buffers from the kernel, page by page, each time (memory.py)
_MAP_TYPE_ARRAY = 2
_ENOTSUPP = 524


def drain(fd: int, key_type: np.dtype[Any], value_type: np.dtype[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Takes all elements out of a hash map, in chunks of (keys, values) that are overwritten by the next.

    BPF_MAP_LOOKUP_AND_DELETE_BATCH (kernel 5.6): the cursor is the u32 index of the next hash bucket, a
    chunk ends before a bucket that does not fit it (ENOSPC: not even one did), and ENOENT ends the map.
    """
    call = library().bpf_map_lookup_and_delete_batch
    batch = min(_BATCH, _BATCH_BYTES // value_type.itemsize)
    keys, values = np.empty(batch, key_type), np.empty(batch, value_type)
    cursor, position = c.c_uint32(), None
    while True:
        count = c.c_uint32(len(keys))
        result = call(fd, position, c.byref(cursor), keys.ctypes.data, values.ctypes.data, c.byref(count), None)
        if result == -errno.ENOSPC:
            keys, values = np.empty(2 * len(keys), key_type), np.empty(2 * len(keys), value_type)
            continue
        if result and result != -errno.ENOENT:
            raise BpfError(f"A BPF map could not be read ({os.strerror(-result)}).")
        if count.value:
            yield keys[: count.value], values[: count.value]
        if result:
            return
        position = c.byref(c.c_uint32(cursor.value))


def read_per_cpu(fd: int, index: int, value_type: np.dtype[Any]) -> NDArray[Any]:
    """The values that element `index` of a per-CPU array has on each possible CPU."""
    values = np.zeros(possible_cpus(), value_type)  # value sizes here are multiples of 8, as the kernel pads them
    _check(library().bpf_map_lookup_elem(fd, c.byref(c.c_uint32(index)), values.ctypes.data), "read")
    return values


def write_per_cpu(fd: int, index: int, values: NDArray[Any]) -> None:
    """Sets element `index` of a per-CPU array from one value for each possible CPU."""
    _check(library().bpf_map_update_elem(fd, c.byref(c.c_uint32(index)), values.ctypes.data, 0), "written")


def put(fd: int, key: int, value: int, *, key_size: int, value_size: int) -> None:
    """Sets one element whose key and value are plain integers of the given sizes in bytes."""
    key_bytes, value_bytes = key.to_bytes(key_size, "little"), value.to_bytes(value_size, "little")
    _check(library().bpf_map_update_elem(fd, key_bytes, value_bytes, 0), "written")


def put_array(fd: int, first: int, values: NDArray[Any]) -> None:
    """Sets the elements of an array map from position `first` on."""
    if not len(values):
        return
    values = np.ascontiguousarray(values)
    keys = np.arange(first, first + len(values), dtype="<u4")
    put_many(fd, keys, values)


def put_many(fd: int, keys: NDArray[Any], values: NDArray[Any]) -> None:
    """Sets the elements with the given keys; one system call, and one wait, for maps of maps (kernel 5.6)."""
    count = c.c_uint32(len(keys))
    result = library().bpf_map_update_batch(fd, keys.ctypes.data, values.ctypes.data, c.byref(count), None)
    if result and result != -_ENOTSUPP:
        _check(result, "written")
    for at in range(count.value if result else len(keys), len(keys)):  # before 5.13 maps of maps have no batches
        key, value = np.ascontiguousarray(keys[at : at + 1]), np.ascontiguousarray(values[at : at + 1])
        _check(library().bpf_map_update_elem(fd, key.ctypes.data, value.ctypes.data, 0), "written")


def put_bytes(fd: int, key: bytes, value: bytes | bytearray | memoryview | NDArray[Any]) -> int:
    """Sets one element; 0, or the errno where the kernel did not."""
    data = np.frombuffer(value, np.uint8) if not isinstance(value, np.ndarray) else value
    return -int(library().bpf_map_update_elem(fd, key, data.ctypes.data, 0))


def take_out(fd: int, key: bytes) -> bool:
    """Deletes one element; whether there was one."""
    return not library().bpf_map_delete_elem(fd, key)


def create_array(value_size: int, name: bytes) -> int:
    """The fd of a new array map with one element. Raises BpfError."""
    fd = int(library().bpf_map_create(_MAP_TYPE_ARRAY, name, 4, value_size, 1, None))
    _check(min(fd, 0), "made")
    return fd


def stock(fd: int, key_size: int, value_size: int, elements: int) -> None:
    """Puts elements with keys counted down from the highest into a hash map and takes them out again."""
    keys = [(256**key_size - 1 - number).to_bytes(key_size, "little") for number in range(elements)]
    value = bytes(value_size)
    for key in keys:
        _check(library().bpf_map_update_elem(fd, key, value, 0), "written")
    for key in keys:
        _check(library().bpf_map_delete_elem(fd, key), "written")


def _check(result: int, done: str) -> None:
    if result:
        raise BpfError(f"A BPF map could not be {done} ({os.strerror(-result)}).")
