"""The targets that read profiles of other profilers: one for each format, and the writers with whatever was read."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import cache

from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import ExportProfilesServiceRequest

from profiler.formats.by_extension import WRITERS
from profiler.formats.folded import write_differential, write_folded
from profiler.formats.json import write_json
from profiler.formats.otlp import write_otlp
from profiler.formats.perf_script import read_perf_script
from profiler.formats.pprof import Message, write_pprof
from profiler.formats.read import profiles_of, read_file
from profiler.formats.reading import ReadFile
from profiler.formats.speedscope import write_speedscope
from profiler.model import Accounting, Profile, Sample, Window, stack_table
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from tests.fuzz.driver import Target
from tests.fuzz.mutate import change_bytes, text_changes

_FEW = 2000  # samples and frames: what is larger takes the writers longer than an input may


@cache
def _profile() -> Profile:
    main = Location(
        16, Binary("/bin/app", "00ff"), (Frame("twice", Kind.INLINED), Frame("main", Kind.NATIVE, "", "a.c", 3))
    )
    read = Location(32, Binary("[kernel]"), (Frame("vfs_read", Kind.KERNEL),))
    unknown = Location(48, None, (Frame("[no mapping]", Kind.UNKNOWN, reason=Reason.NO_MAPPING),))
    samples = (
        Sample((read, main), 7, "app", "pool", 3, "shop", "c" * 8),
        Sample((unknown, main), 7, "app", "app", 4),
        Sample((), 1, "idle;x", "a 1", 5),
    )
    account = Accounting(20, 20, 6, 0, 12, {"counts map full": 2}, 10, {"no mapping": 4})
    return Profile("web-1", "cpu-clock", 99, Window(10**18, 10**18 + 10**10), samples, account, {"env": "prod"})


def _heap() -> bytes:
    message = Message()
    message.string_table.extend(["", "alloc_space", "bytes", "alloc_objects", "count", "f", "pid", "x"])
    message.sample_type.add(type=3, unit=4)
    message.sample_type.add(type=1, unit=2)
    message.function.add(id=1, name=5)
    message.mapping.add(id=1, filename=7)
    message.location.add(id=1, mapping_id=1).line.add(function_id=1, line=4)
    message.location.add(id=2, mapping_id=1, address=7)
    message.sample.add(location_id=[1, 2, 1], value=[3, 4096]).label.add(key=6, num=7)
    return bytes(message.SerializeToString())


_PERF = b"""# hostname : web-1
V8 Worker 24636/25607 [000] 94564.109216:   10101010 cpu-clock:u:
\t    7f5e3c8a2b1c twice (inlined)
\t    7f5e3c8a2b1c worker+0x8c (/usr/bin/app)
  worker.cc:31
\tffffffff8103ce3b [unknown] ([kernel.kallsyms])
\t    7f f->g (/tmp/perf-9.map)

swapper 0 [001] 158.570607: 1 page-faults:  ffffffff81 native_safe_halt+0x1 ([kernel])
"""
_SPEEDSCOPE = b"""{"shared": {"frames": [{"name": "a", "file": "f", "line": 3}, {"name": "b"}]}, "profiles": [
{"type": "evented", "name": "t", "unit": "milliseconds", "startValue": 0, "endValue": 9, "events": [
{"type": "O", "at": 0, "frame": 0}, {"type": "O", "at": 1.5, "frame": 1}, {"type": "C", "at": 2, "frame": 1},
{"type": "C", "at": 9, "frame": 0}]},
{"type": "sampled", "name": "u", "unit": "bytes", "samples": [[0, 1], [0]], "weights": [3, 4.5]}]}"""


def _checked(read: Callable[[bytes], ReadFile]) -> Callable[[bytes], None]:
    """Reads; of what could be read, every profile adds up, and every writer takes it."""

    def run(data: bytes) -> None:
        try:
            file = read(data)
        except ValueError as error:
            assert str(error) and len(str(error)) < 5000
            return
        if sum(len(table.index) + len(table.counts) for table in file.tables) > _FEW:
            return
        for profile in profiles_of(file)[:3]:
            total = sum(sample.count for sample in profile.samples)
            assert profile.accounting.sampled == total and profile.hz > 0
            assert all(sample.count >= 0 and 0 <= sample.pid < 1 << 32 for sample in profile.samples)
            if sum(1 + sum(len(place.frames) for place in sample.stack) for sample in profile.samples) > _FEW:
                continue
            assert int(stack_table(profile).counts.sum()) == total
            for write in WRITERS.values():
                try:
                    write(profile)
                except ValueError as error:  # a number that a format cannot hold
                    assert "64 bit" in str(error) or "Value out of range" in str(error), error

    return run


def _otlp_json() -> bytes:
    return str(json_format.MessageToJson(ExportProfilesServiceRequest.FromString(write_otlp(_profile())))).encode()


def _differential() -> bytes:
    table = stack_table(_profile())
    return write_differential(table, table)


_BRACKETS = b'[ ] { } " , : null true 1e999 -1 1.5 NaN Infinity "O" "C" "none" "bytes" 0 9999999999999999999 "\\ud800"'
_PERF_TOKENS = (
    b" : / [ ] ( ) -> +0x1 (inlined) (deleted) [unknown] \t \n\n 0 99999999999999999999 cycles: # ( -1".split(b" ")
)
_read = _checked(read_file)

_FOLDED_TOKENS = (b";", b" 1", b"\n", b"\\x", b"_[k]", b"#")
_JSON_CHANGES = text_changes(*_BRACKETS.split(b" "))

PROFILE_TARGETS = (
    Target("folded", lambda _: [write_folded(_profile()), _differential()], _read, text_changes(*_FOLDED_TOKENS)),
    Target("pprof", lambda _: [gzip.decompress(write_pprof(_profile())), _heap()], _read, change_bytes),
    Target("perf-script", lambda _: [_PERF, _PERF * 3], _checked(read_perf_script), text_changes(*_PERF_TOKENS, b" ")),
    Target("speedscope", lambda _: [_SPEEDSCOPE, write_speedscope(_profile())], _read, _JSON_CHANGES),
    Target("own-json", lambda _: [write_json(_profile())], _read, _JSON_CHANGES),
    Target("otlp", lambda _: [write_otlp(_profile())], _read, change_bytes, 256 << 20),
    Target("otlp-json", lambda _: [_otlp_json()], _read, _JSON_CHANGES, 256 << 20),
    Target("gzip", lambda _: [write_pprof(_profile())], _read, change_bytes),
)
