"""Any file that some profiler wrote, read by what is in it, whatever its name is.

Files are not trusted: what they unpack and unfold into is bounded.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Any, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from profiler.formats.folded import read_differential, read_folded
from profiler.formats.json import read_document
from profiler.formats.otlp import MAX_BODY, Received, read_otlp, read_otlp_json
from profiler.formats.perf_script import is_perf_script, read_perf_script
from profiler.formats.pprof import Message
from profiler.formats.pprof_read import read_pprof
from profiler.formats.reading import FORMATS, ReadFile, profile_of
from profiler.formats.speedscope_read import read_speedscope
from profiler.model import Profile

MAX_UNPACKED: Final = 1 << 30
MAX_OBJECTS: Final = 16 << 20  # JSON's brackets: each becomes an object of a hundred bytes
ASSUMED: Final = ("samples", 100)  # event and rate of stacks that come with nothing else
_OTHERS: Final = {
    b"PERFILE2": "perf's own file: run `perf script -i FILE` and give its output",
    b"\x7fELF": "a program, not a profile",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it",
    b"BZh": "compressed with bzip2: unpack it",
    b"\xfd7zXZ": "compressed with xz: unpack it",
    b"FLR\x00": "a Java flight recording: make collapsed stacks of it",
    b"<?xml": "XML, and no profile: a flame graph cannot be read back",
    b"<svg": "a picture, and no profile: a flame graph cannot be read back",
}
_JSON: Final = re.compile(rb"\s*\{\s*[\"}]")  # a folded stack may begin with {main}, too
_DIFFERENTIAL: Final = re.compile(rb"\S.*\s\d+\s+\d+\s*")


def read_file(data: bytes, *, host: str = "", max_unpacked: int = MAX_UNPACKED) -> ReadFile:
    """What a file holds, gzipped or not, in any of FORMATS, which is told from its content.

    `host` is the host of profiles that do not name theirs. Raises ValueError, with a sentence, for what is in none of
    these formats, is damaged, or is larger than `max_unpacked` bytes when unpacked.
    """
    data = _unpacked(data, max_unpacked)
    for magic, what in _OTHERS.items():
        if data.startswith(magic):
            raise ValueError(f"this is {what}")
    if not data.strip():
        raise ValueError("the file is empty")
    # Both messages begin with a field 1 or 2 of bytes, and hold the empty string at the least.
    if data[:1] in b"\x0a\x12" and b"\0" in data:
        return read_pprof(data, host) if _is_pprof(data) else _received(read_otlp(data, host, timed=True))
    data = data.removeprefix(b"\xef\xbb\xbf")
    if _JSON.match(data):
        return _json(data, host)
    if is_perf_script(data):
        return read_perf_script(data)
    if _is_differential(data):
        tables, problems = read_differential(data)
        return ReadFile("differential folded stacks", (), tables, tuple(problems))
    try:
        table, problems = read_folded(data)
    except ValueError as error:
        raise ValueError(f"{error}. Readable are {FORMATS}, gzipped or not") from error
    return ReadFile("folded stacks", (), (table,), tuple(problems))


def profiles_of(file: ReadFile) -> tuple[Profile, ...]:
    """The profiles of a file; of one that holds stacks alone, one of these, as they are after."""
    event, hz = ASSUMED
    return file.profiles or (profile_of(file.tables[-1], event=event, hz=hz),)


def _unpacked(data: bytes, limit: int) -> bytes:
    for _ in range(2):  # a .pb.gz that was packed once more
        if data[:2] != b"\x1f\x8b":
            return data
        unpacked = bytearray()
        try:
            while data:
                decoder = zlib.decompressobj(wbits=31)
                unpacked += decoder.decompress(data, limit + 1 - len(unpacked))
                if len(unpacked) > limit:
                    raise ValueError(f"the file is larger than {limit >> 20:,} MB when unzipped")
                if not decoder.eof:
                    raise ValueError("the file was cut off: its gzip data has no end")
                data = decoder.unused_data.lstrip(b"\0")
        except zlib.error as error:
            raise ValueError(f"the file's gzip data is damaged ({error})") from error
        data = bytes(unpacked)
    return data


def _is_pprof(data: bytes) -> bool:
    """Whether this is a profile.proto: what every one has is a table of strings, and sample types."""
    message = Message()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return False
    return bool(message.string_table) and bool(message.sample_type)


def _json(data: bytes, host: str) -> ReadFile:
    if data.count(b"{") + data.count(b"[") > MAX_OBJECTS:
        raise ValueError(f"this JSON has more than {MAX_OBJECTS:,} objects and lists")
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not JSON: {error}") from error
    if isinstance(document, dict):
        if "format" in document and "samples" in document:
            return ReadFile("pilotlight's JSON", (read_document(document),))
        if "shared" in document and "profiles" in document:
            return read_speedscope(document)
        if "resourceProfiles" in document or "resource_profiles" in document:
            if len(data) > MAX_BODY:
                raise ValueError(f"this OTLP file has {len(data):,} bytes, more than {MAX_BODY:,}")
            return _received(read_otlp_json(data, host, timed=True))
    raise ValueError(f"this JSON is no profile that can be read. Readable are {FORMATS}")


def _received(received: Received) -> ReadFile:
    if not received.profiles:
        raise ValueError(received.problem or "this OTLP file holds no profile")
    problems = (received.problem,) if received.problem else ()
    return ReadFile("OTLP profiles", received.profiles, (), problems, received.times)


def _is_differential(data: bytes) -> bool:
    """Whether each line ends in two whole numbers."""
    head = data[: 1 << 16]
    lines = [line for line in head[: head.rfind(b"\n") + 1 or len(head)].splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(b"#")]
    return bool(lines) and all(_DIFFERENTIAL.fullmatch(line) for line in lines)
