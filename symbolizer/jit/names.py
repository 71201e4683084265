"""What compilers at run time call their functions, in perf maps and jitdump files, made into frames.

Known are the names of V8 (node, Chromium), CPython, and Java as perf's JVMTI agent and perf-map-agent write it; C++ and
Rust are demangled. All others, such as those of the JVM itself, .NET, PHP, Ruby, Erlang and LuaJIT, are shown as they
are: they were made for people.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from symbolizer.names import clean_name
from symbolizer.naming.demangle import function_names
from symbolizer.types import Frame, Kind

_PYTHON = re.compile(r"py::(.+?):(.*)", re.DOTALL)

# V8: src/logging/log.cc, CodeEventLogger: "TAG:TIERNAME SCRIPT:LINE:COLUMN". TIER: ~ is interpreted, ^ compiled without
# optimization, + and ' in between, * optimized. Getters and the like have a blank in their name.
_V8 = re.compile(r"(LazyCompile|Function|Script|Eval|JS):([~^+*']?)(.*)", re.DOTALL)
_V8_PLACE = re.compile(r":(\d{1,9})(?::\d{1,9})?\Z")
_V8_SCRIPT = re.compile(r" (?=/|[a-z][a-z0-9+.-]{1,30}:)")
_V8_NAMELESS = {"Script": "(script)", "Eval": "(eval)"}

# The agent of perf (tools/perf/jvmti/libjvmti.c): class, method and descriptor, one behind the other.
_DESCRIPTOR = re.compile(r"(L([^;:()]+);)([^;:()]+)\(((?:\[*(?:[BCDFIJSZ]|L[^;()]+;))*)\)\[*(?:[BCDFIJSVZ]|L[^;()]+;)")
_PARAMETER = re.compile(r"(\[*)(?:([BCDFIJSZ])|L([^;()]+);)")
_PRIMITIVES = dict(zip("BCDFIJSZ", "byte char double float int long short boolean".split(), strict=True))

# perf-map-agent: "Lclass;::method", or the class as people write it; "inner in outer" where it unfolds inlined calls,
# "outer->inner" where it unfolds all of them.
_METHOD = re.compile(r"(?:L[^;:()\s]+;|[\w$][\w$./+\[\]]*)::[\w$<>]+\S*")


def jit_frames(name: bytes) -> tuple[Frame, ...]:
    """The frames for a name, the function that was compiled last, those inlined into it before it, innermost first."""
    if name.startswith((b"_Z", b"_R")):
        function, system = function_names(name)
        return (Frame(function, Kind.JIT, system),)
    text = clean_name(name)
    if match := _PYTHON.fullmatch(text):
        return (Frame(match[1], Kind.PYTHON, file=match[2]),)
    if match := _V8.fullmatch(text):
        return (_v8_frame(match, text),)
    if text.startswith("L") and (match := _DESCRIPTOR.fullmatch(text)):
        parameters = ", ".join(map(_type, _PARAMETER.finditer(match[4])))
        return (Frame(f"{_dotted(match[2])}.{match[3]}({parameters})", Kind.JIT, text),)
    if "::" in text:
        return _unfolded(text)
    return (Frame(text, Kind.JIT),)


def script_path(script: str) -> str:
    """The name of a script, where that is the URL of a file the file's path."""
    return clean_name(unquote(script.removeprefix("file://"))) if script.startswith("file:///") else script


def v8_script(name: bytes) -> bytes | None:
    """Where V8 has a function from, as the function's name says, b"" where it does not; None for names not of V8."""
    match = _V8.fullmatch(name.decode("utf-8", "surrogateescape"))
    return None if match is None else _v8_parts(match[3])[1].encode("utf-8", "surrogateescape")


def own_file(frame: Frame, files: set[str]) -> str:
    """Which of `files`, those that the function's code came from, it was itself written in; "" where that cannot be
    told. The compilers of Java call the file like the class."""
    if frame.file:
        return frame.file
    if match := _DESCRIPTOR.fullmatch(frame.system_name):
        written_in = match[2].partition("$")[0]
        return next((file for file in sorted(files) if file.rpartition(".")[0] == written_in), "")
    return ""


def _v8_frame(match: re.Match[str], text: str) -> Frame:
    tag, tier, rest = match.groups()
    name, script, line = _v8_parts(rest)
    if not script:
        return Frame(tier + rest.strip(), Kind.JIT, text) if tier else Frame(text, Kind.JIT)
    return Frame(tier + (name or _V8_NAMELESS.get(tag, "(anonymous)")), Kind.JIT, text, script_path(script), line)


def _v8_parts(rest: str) -> tuple[str, str, int]:
    """(function, script, line) of what follows the tier; no script and line 0 where these are missing."""
    place = _V8_PLACE.search(rest)
    if place is None:
        return rest.strip(), "", 0
    before = rest[: place.start()]
    # Paths have blanks too: the script starts where one that has a path or a scheme would, else is the last word.
    script = _V8_SCRIPT.search(before)
    blank = script.start() if script else before.rfind(" ")
    return before[: max(blank, 0)], before[blank + 1 :], int(place[1])


def _unfolded(text: str) -> tuple[Frame, ...]:
    inner, between, outer = text.rpartition(" in ")
    methods = [outer, inner] if between else text.split("->")
    if not all(map(_METHOD.fullmatch, methods)):
        return (Frame(text, Kind.JIT),)
    return tuple(_method(method, Kind.INLINED if i else Kind.JIT) for i, method in reversed(list(enumerate(methods))))


def _method(text: str, kind: Kind) -> Frame:
    if text.startswith("L") and ";::" in text:
        class_name, _, method = text.partition(";::")
        return Frame(f"{_dotted(class_name[1:])}::{method}", kind, text)
    return Frame(text, kind)


def _type(match: re.Match[str]) -> str:
    dimensions, primitive, class_name = match.groups()
    return (_PRIMITIVES[primitive] if primitive else _dotted(class_name)) + "[]" * len(dimensions)


def _dotted(class_name: str) -> str:
    return class_name.replace("/", ".")
