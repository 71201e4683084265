"""Protobuf messages described in a line each: their fields' numbers are the format, no generated code is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

_TYPES: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "int64": _TYPES.TYPE_INT64,
    "uint64": _TYPES.TYPE_UINT64,
    "int32": _TYPES.TYPE_INT32,
    "double": _TYPES.TYPE_DOUBLE,
    "bool": _TYPES.TYPE_BOOL,
    "string": _TYPES.TYPE_STRING,
    "bytes": _TYPES.TYPE_BYTES,
}


def message_classes(package: str, described: Mapping[str, str]) -> dict[str, Any]:
    """The classes of messages by name. Each is described by its fields, `NUMBER NAME TYPE`, separated by commas.

    A type is a scalar's, or the name of another message of these; with a `*` it is repeated. An enumeration is
    described as int32, which is the same on the wire.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for message, fields in described.items():
        added = file.message_type.add(name=message)
        for words in filter(str.strip, fields.split(",")):
            number, name, type_name = words.split()
            base = type_name.removesuffix("*")
            field = added.field.add(
                name=name,
                number=int(number),
                label=_TYPES.LABEL_REPEATED if type_name.endswith("*") else _TYPES.LABEL_OPTIONAL,
                type=_SCALARS.get(base, _TYPES.TYPE_MESSAGE),
            )
            if base not in _SCALARS:
                field.type_name = f".{package}.{base}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in described
    }
