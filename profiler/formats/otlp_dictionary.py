"""The dictionary of an OTLP message: tables of strings, attributes, functions, locations and stacks, as our types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.profiles.v1development import profiles_pb2 as pb

from profiler.formats import otlp_foreign as foreign
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from symbolizer.unknown import unknown

MAX_DEPTH: Final = 4096  # frames of one stack, inlined ones included

Entry = TypeVar("Entry")
Word = TypeVar("Word")


class Dictionary:
    """Each entry becomes one object, shared by all who use it. Raises ValueError, with a sentence for the sender, for
    what refers to nothing, says nothing that there is, or is too deep."""

    def __init__(self, message: pb.ProfilesDictionary) -> None:
        self._message = message
        self._locations: dict[int, Location] = {}
        self._stacks: dict[int, tuple[Location, ...]] = {}
        self._depths: dict[int, int] = {}
        self._binaries: dict[int, Binary] = {}
        self._frames: dict[tuple[int, int, Kind, Reason | None], Frame] = {}
        self._attributes: dict[tuple[int, ...], dict[str, foreign.Value]] = {}

    def stack(self, index: int) -> tuple[Location, ...]:
        """A stack, leaf first."""
        stack = self._stacks.get(index)
        if stack is None:
            indices: Sequence[int] = ()
            if index or self._message.stack_table:
                indices = self._at(self._message.stack_table, index, "stack").location_indices
            if len(indices) > MAX_DEPTH:
                raise ValueError(f"an OTLP stack has {len(indices):,} frames, more than {MAX_DEPTH:,}")
            known = self._locations
            for location in indices:
                if location not in known:
                    known[location] = self._location(location)
            stack = self._stacks[index] = tuple([known[location] for location in indices])
            depth = self._depths[index] = sum(len(location.frames) for location in stack)
            if depth > MAX_DEPTH:
                raise ValueError(f"an OTLP stack has {depth:,} frames, more than {MAX_DEPTH:,}")
        return stack

    def depth(self, index: int) -> int:
        """How many frames a stack has, inlined ones included; of one that was asked for."""
        return self._depths[index]

    def _location(self, index: int) -> Location:
        location = self._at(self._message.location_table, index, "location")
        binary = self._binary(location.mapping_index)
        if not location.lines:
            return Location(location.address, binary, (foreign.unnamed(binary),))
        attributes = self.attributes(tuple(location.attribute_indices))
        frame_type = str(attributes.get("profile.frame.type", ""))
        last = len(location.lines) - 1
        kinds = _listed(attributes, "pilotlight.frame.kinds", last + 1, Kind)
        reasons = _listed(attributes, "pilotlight.frame.reasons", last + 1, Reason)
        return Location(
            location.address,
            binary,
            tuple(
                [
                    self._frame(
                        line,
                        kinds[place] if kinds else None,
                        reasons[place] if reasons else None,
                        frame_type,
                        place < last,
                    )
                    for place, line in enumerate(location.lines)
                ]
            ),
        )

    def _frame(self, line: pb.Line, kind: Kind | None, reason: Reason | None, frame_type: str, inlined: bool) -> Frame:
        function = self._at(self._message.function_table, line.function_index, "function")
        name = self.string(function.name_strindex)
        system_name = self.string(function.system_name_strindex)
        if kind is None:
            name = name or system_name
            kind = foreign.kind(frame_type, name, inlined=inlined)
            if not name:
                return unknown(Reason.NO_SYMBOLS)
        key = (line.function_index, line.line, kind, reason)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = Frame(
                name,
                kind,
                "" if system_name == name else system_name,
                self.string(function.filename_strindex),
                max(line.line, 0),  # below zero: what Java says of native methods
                reason,
            )
        return frame

    def _binary(self, index: int) -> Binary | None:
        if not index and not self._message.mapping_table:
            return None
        binary = self._binaries.get(index)
        if binary is None:
            mapping = self._at(self._message.mapping_table, index, "mapping")
            path = self.string(mapping.filename_strindex)
            attributes = self.attributes(tuple(mapping.attribute_indices))
            if not index and not path and not attributes:
                return None
            build_id = ""
            for key, prefix in (
                ("process.executable.build_id.gnu", ""),
                ("pilotlight.build_id", ""),
                ("process.executable.build_id.go", "go:"),
                ("process.executable.build_id.htlhash", "htlhash:"),
            ):
                if key in attributes:
                    build_id = prefix + foreign.text(attributes[key])
                    break
            binary = self._binaries[index] = Binary(path, build_id)
        return binary

    def attributes(self, indices: tuple[int, ...]) -> dict[str, foreign.Value]:
        """Attributes by their numbers, those with a scalar value."""
        found = self._attributes.get(indices)
        if found is None:
            found = {}
            for index in indices:
                attribute = self._at(self._message.attribute_table, index, "attribute")
                value = self._any(attribute.value)
                if value is not None:
                    found[self.string(attribute.key_strindex)] = value
            self._attributes[indices] = found
        return found

    def key_values(self, attributes: Iterable[KeyValue]) -> dict[str, foreign.Value]:
        """Attributes that are written out, those with a scalar value."""
        found = {}
        for attribute in attributes:
            value = self._any(attribute.value)
            if value is not None:
                found[attribute.key or self.string(attribute.key_strindex)] = value
        return found

    def _any(self, value: AnyValue) -> foreign.Value | None:
        """A scalar; None for what is unset, bytes, a list or a map."""
        match value.WhichOneof("value"):
            case "string_value":
                return value.string_value
            case "string_value_strindex":
                return self.string(value.string_value_strindex)
            case "int_value":
                return value.int_value
            case "bool_value":
                return value.bool_value
            case "double_value":
                return value.double_value
        return None

    def string(self, index: int) -> str:
        table = self._message.string_table
        return self._at(table, index, "string") if index or table else ""

    def _at(self, table: Sequence[Entry], index: int, what: str) -> Entry:
        if not 0 <= index < len(table):
            raise ValueError(f"the OTLP body refers to {what} {index}, but its {what} table has {len(table):,} entries")
        return table[index]


def _listed(
    attributes: Mapping[str, foreign.Value], key: str, length: int, of: Callable[[str], Word]
) -> list[Word | None] | None:
    """The words of an attribute that says something of each line of a location; "" says nothing."""
    value = attributes.get(key)
    if value is None:
        return None
    words = str(value).split(",")
    try:
        listed = [of(word) if word else None for word in words]
    except ValueError as error:
        raise ValueError(f"the OTLP attribute {key} holds an unknown word: {error}") from error
    if len(listed) != length:
        raise ValueError(f"the OTLP attribute {key} has {len(listed)} words for {length} lines")
    return listed
