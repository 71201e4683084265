"""A ctypes binding to the little of libbpf.so.1 that the sampler needs: open, configure, load, attach.

Source: libbpf's own headers bpf/libbpf.h and bpf/bpf.h (1.0 and newer: functions return -errno or NULL).
"""

from __future__ import annotations

import ctypes as c
import errno
import os
from pathlib import Path


class BpfError(Exception):
    """BPF could not do it; the message says in one sentence what is wrong and what to do."""


class BpfRefused(BpfError):
    """The kernel's verifier did not accept a program, or does not know something it uses."""


_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "bpf_object__open_file": (c.c_void_p, [c.c_char_p, c.c_void_p]),
    "bpf_object__load": (c.c_int, [c.c_void_p]),
    "bpf_object__close": (None, [c.c_void_p]),
    "bpf_object__find_map_by_name": (c.c_void_p, [c.c_void_p, c.c_char_p]),
    "bpf_object__find_program_by_name": (c.c_void_p, [c.c_void_p, c.c_char_p]),
    "bpf_map__fd": (c.c_int, [c.c_void_p]),
    "bpf_map__reuse_fd": (c.c_int, [c.c_void_p, c.c_int]),
    "bpf_map__set_max_entries": (c.c_int, [c.c_void_p, c.c_uint32]),
    "bpf_map__set_map_flags": (c.c_int, [c.c_void_p, c.c_uint32]),
    "bpf_map__initial_value": (c.c_void_p, [c.c_void_p, c.POINTER(c.c_size_t)]),
    "bpf_map_update_elem": (c.c_int, [c.c_int, c.c_void_p, c.c_void_p, c.c_uint64]),
    "bpf_map_lookup_elem": (c.c_int, [c.c_int, c.c_void_p, c.c_void_p]),
    "bpf_map_get_next_key": (c.c_int, [c.c_int, c.c_void_p, c.c_void_p]),
    "bpf_map_delete_elem": (c.c_int, [c.c_int, c.c_void_p]),
    "bpf_map_lookup_and_delete_batch": (
        c.c_int,
        [c.c_int, c.c_void_p, c.c_void_p, c.c_void_p, c.c_void_p, c.POINTER(c.c_uint32), c.c_void_p],
    ),
    "bpf_map_update_batch": (c.c_int, [c.c_int, c.c_void_p, c.c_void_p, c.POINTER(c.c_uint32), c.c_void_p]),
    "bpf_map_create": (c.c_int, [c.c_int, c.c_char_p, c.c_uint32, c.c_uint32, c.c_uint32, c.c_void_p]),
    "bpf_program__fd": (c.c_int, [c.c_void_p]),
    "bpf_program__set_autoload": (c.c_int, [c.c_void_p, c.c_bool]),
    "bpf_program__attach": (c.c_void_p, [c.c_void_p]),
    "bpf_link__destroy": (c.c_int, [c.c_void_p]),
    "libbpf_num_possible_cpus": (c.c_int, []),
    "libbpf_set_print": (c.c_void_p, [c.c_void_p]),
}


def _load_library() -> c.CDLL:
    try:
        library = c.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise BpfError(
            "libbpf.so.1 is not installed: install your distribution's libbpf 1.x (Debian: apt-get install libbpf1)."
        ) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(None)  # its messages are for developers; errors here are sentences of our own
    return library


_library: c.CDLL | None = None


def library() -> c.CDLL:
    """libbpf, loaded at first use. Raises BpfError where it is not installed."""
    global _library
    if _library is None:
        _library = _load_library()
    return _library


def possible_cpus() -> int:
    """How many values an element of a per-CPU map has."""
    return int(library().libbpf_num_possible_cpus())


class BpfObject:
    """A compiled BPF object file: open it, set what must be set before loading, load, attach, close."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise BpfError(f"The BPF program {path} has not been built: run `make setup`.")
        self._object = library().bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise BpfError(f"The BPF program {path} cannot be read ({_errno_text()}): run `make setup` again.")
        self._links: list[int] = []

    def set_constant(self, offset: int, value: int) -> None:
        """Sets the 32-bit constant at `offset` of .rodata, before load()."""
        size = c.c_size_t()
        start = library().bpf_map__initial_value(self._map(".rodata"), c.byref(size))
        if not start or offset + 4 > size.value:
            raise BpfError("The BPF program does not fit this version of pilotlight: run `make setup` again.")
        c.memmove(start + offset, value.to_bytes(4, "little"), 4)

    def set_max_entries(self, map_name: str, entries: int) -> None:
        """Sizes a map, before load()."""
        library().bpf_map__set_max_entries(self._map(map_name), entries)

    def share_map(self, map_name: str, fd: int) -> None:
        """Has load() take a map that is there already in place of one of its own; the fd stays the caller's."""
        if library().bpf_map__reuse_fd(self._map(map_name), fd):
            raise BpfError(f"The BPF map {map_name} could not be shared ({_errno_text()}).")

    def allocate_up_front(self, map_name: str) -> None:
        """Has load() allocate all elements of a map; takes BPF_F_NO_PREALLOC away."""
        library().bpf_map__set_map_flags(self._map(map_name), 0)

    def skip_program(self, name: str) -> None:
        """Leaves a program out of load()."""
        library().bpf_program__set_autoload(self._program(name), False)

    def load(self) -> None:
        """Creates the maps and has the kernel verify the programs. Raises BpfError."""
        result = library().bpf_object__load(self._object)
        if result:
            refused = -result in (errno.EINVAL, errno.E2BIG, errno.EACCES, errno.ENOTSUP)
            raise (BpfRefused if refused else BpfError)(_explain_load(-result))

    def map_fd(self, name: str) -> int:
        return int(library().bpf_map__fd(self._map(name)))

    def program_fd(self, name: str) -> int:
        return int(library().bpf_program__fd(self._program(name)))

    def attach(self, program: str) -> None:
        """Attaches a program to where its section name says, until close()."""
        link = library().bpf_program__attach(self._program(program))
        if not link:
            raise BpfError(f"The BPF program {program} could not be attached ({_errno_text()}).")
        self._links.append(link)

    def close(self) -> None:
        for link in self._links:
            library().bpf_link__destroy(link)
        self._links.clear()
        if self._object:
            library().bpf_object__close(self._object)
            self._object = None

    def _map(self, name: str) -> int:
        return self._found(library().bpf_object__find_map_by_name(self._object, name.encode()), name)

    def _program(self, name: str) -> int:
        return self._found(library().bpf_object__find_program_by_name(self._object, name.encode()), name)

    @staticmethod
    def _found(pointer: int | None, name: str) -> int:
        if not pointer:
            raise BpfError(f"The built BPF program has no {name}: run `make setup` again.")
        return pointer


def _errno_text() -> str:
    return os.strerror(c.get_errno())


def _explain_load(number: int) -> str:
    lockdown = _read("/sys/kernel/security/lockdown")
    if number == errno.EPERM and "[confidentiality]" in lockdown:
        return (
            "The kernel is locked down (confidentiality), so BPF may not read stacks: boot with lockdown=integrity "
            "or none."
        )
    if number == errno.EPERM:
        return "The kernel refused to load BPF programs: run as root, or with CAP_BPF and CAP_PERFMON."
    if number in (errno.ESRCH, errno.ENOENT) or not os.path.exists("/sys/kernel/btf/vmlinux"):
        return (
            "The kernel has no BTF (/sys/kernel/btf/vmlinux), which the sampler is fitted to it by: use a kernel built "
            "with CONFIG_DEBUG_INFO_BTF=y (5.8 or newer)."
        )
    if number == errno.ENOMEM:
        return "There is not enough memory for the BPF maps: sample at a lower rate, or free some memory."
    return (
        f"The kernel did not accept the BPF program ({os.strerror(number)}): `pilotlight check` says what this "
        "kernel lacks."
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
