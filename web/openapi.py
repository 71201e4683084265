"""/openapi.json: what FastAPI derives from the endpoints, with errors as they are answered here."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

_TEXT: Final = {"type": "string"}
_SENTENCE: Final = {
    "type": "object",
    "properties": {"error": {"type": "string", "description": "One sentence: what is wrong, and what to do"}},
    "required": ["error"],
}
_CONNECT: Final = {
    "type": "object",
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "error": {"type": "string"}},
}
_STATUS: Final = {
    "type": "object",
    "properties": {"code": {"type": "integer"}, "message": {"type": "string"}, "error": {"type": "string"}},
}


class Application(FastAPI):
    """FastAPI, whose every operation also says what it answers when something is wrong."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    # Bad parameters are answered as everything else that is wrong.
                    operation["responses"].pop("422", None)
                    operation["responses"].setdefault("default", _errors(path))
            for name in ("HTTPValidationError", "ValidationError"):
                schema.get("components", {}).get("schemas", {}).pop(name, None)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _errors(path: str) -> dict[str, Any]:
    if path.startswith("/v1development/"):
        return _answer("An error, as google.rpc.Status", _STATUS, "application/x-protobuf")
    if path.startswith(("/push.v1.", "/querier.v1.")):
        return _answer("An error, in connect's form", _CONNECT)
    if path == "/readyz":
        return _answer("The store cannot be used", _SENTENCE, "text/plain")
    return _answer("An error", _SENTENCE)


def _answer(description: str, schema: dict[str, Any], *others: str) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}, **{other: {"schema": _TEXT} for other in others}}
    return {"description": description, "content": content}
