"""The connect protocol for calls of one message each way: POST, in protobuf or its JSON, errors as JSON.

Source: https://connectrpc.com/docs/protocol/#unary-request
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import Request, Response
from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from web.ingest import RETRY_SECONDS, Refused, decompress, read_body
from web.pyroscope.messages import MESSAGES
from web.store.queries import Empty
from web.store.store import BadQuery, StoreUnavailable

PROTO: Final = "application/proto"
JSON: Final = "application/json"
MAX_OBJECTS: Final = 1 << 16  # in JSON, where each takes microseconds to read
# Of google.rpc.Code, which the server's refusals carry.
_CODES: Final = {
    3: "invalid_argument",
    4: "deadline_exceeded",
    5: "not_found",
    6: "already_exists",
    8: "resource_exhausted",
    12: "unimplemented",
    14: "unavailable",
}
# What a body and an answer look like in /openapi.json.
OPENAPI: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}, PROTO: {}}},
}


async def answer(request: Request, work: Callable[[], Awaitable[Any]]) -> Response:
    """The message that `work` gives, as the request's content type wants it; or what it raises, as connect's error."""
    rejected: Counter[str] = request.app.state.rejected
    try:
        message = await work()
    except Refused as refusal:
        rejected[refusal.reason] += 1
        return _error(refusal)
    except BadQuery as error:
        return _error(Refused(400, 3, "query", str(error)))
    except Empty as error:
        return _error(Refused(404, 5, "query", str(error)))
    except StoreUnavailable as error:
        return _error(Refused(503, 14, "store", str(error)))
    if media_type(request) == PROTO:
        return Response(message.SerializeToString(), media_type=PROTO)
    return Response(json_format.MessageToJson(message, indent=None), media_type=JSON)


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_message(request: Request, limit: int) -> bytes:
    """The body as it came, of at most `limit` bytes. Raises Refused for a content type that is not connect's."""
    kind = media_type(request)
    if kind not in (PROTO, JSON):
        raise Refused(415, 12, "content type", f"content type {kind[:80]!r} is not {PROTO} or {JSON}")
    return await read_body(request, limit)


def parse_message(name: str, body: bytes, encoding: str, is_json: bool, limit: int) -> tuple[Any, bytes]:
    """A message and the bytes it was made from, of at most `limit` bytes. Raises Refused."""
    content = decompress(body, encoding.strip().lower(), limit)
    message = MESSAGES[name]()
    try:
        if not is_json:
            message.ParseFromString(content)
            return message, content
        if content.count(b"{") > MAX_OBJECTS:
            raise Refused(400, 3, "malformed", f"the body has more than {MAX_OBJECTS:,} JSON objects")
        given = json.loads(content)
        if not isinstance(given, dict):
            raise Refused(400, 3, "malformed", "the body is not a JSON object")
        return json_format.ParseDict(given, message, ignore_unknown_fields=True), content
    except DecodeError as error:
        raise Refused(400, 3, "malformed", f"the body is not a {name} in protobuf, or was cut off") from error
    except RecursionError as error:
        raise Refused(400, 3, "malformed", "the body is nested too deeply") from error
    except (json_format.ParseError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Refused(400, 3, "malformed", f"the body is not a {name} in JSON: {reason}") from error


def _error(refusal: Refused) -> Response:
    body = json.dumps({"code": _CODES.get(refusal.code, "unknown"), "message": str(refusal)})
    headers = {"retry-after": str(RETRY_SECONDS)} if refusal.status in (429, 503) else None
    return Response(body, refusal.status, headers, JSON)
