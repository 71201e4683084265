"""The parts of a multipart/form-data body that is in memory already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

MAX_PARTS: Final = 16
_MAX_HEADER: Final = 4096


@dataclass(slots=True)
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)


def read_parts(body: bytes, content_type: str) -> dict[str, bytes]:
    """Each part's content by its name; the first of a name counts. Raises ValueError, with a sentence."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise ValueError("the content type multipart/form-data has no boundary")
    parts: list[_Part] = []
    name = bytearray()
    value = bytearray()
    ended = False

    def begin() -> None:
        if len(parts) == MAX_PARTS:
            raise ValueError(f"the form has more than {MAX_PARTS} parts")
        parts.append(_Part())

    def header_end() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def end() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begin,
                "on_part_data": lambda data, start, stop: parts[-1].content.extend(data[start:stop]),
                "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
                "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
                "on_header_end": header_end,
                "on_end": end,
            },
            max_size=max(len(body), 1),
            max_header_count=8,
            max_header_size=_MAX_HEADER,
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ValueError(f"the form is malformed: {error}") from error
    if not ended:
        raise ValueError("the form was cut off")
    found: dict[str, bytes] = {}
    for part in parts:
        _, of = parse_options_header(part.headers.get(b"content-disposition", b""))
        found.setdefault(of.get(b"name", b"").decode("utf-8", "replace"), bytes(part.content))
    return found
