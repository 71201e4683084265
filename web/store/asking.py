"""Who a query is for, so that it can be ended when nobody waits for its answer any more.

A query is told by a comment at its beginning: the one thing that every way to the engine passes on as it is.
"""

from __future__ import annotations

import secrets
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final


class NobodyWaits(Exception):
    """Whoever asked has gone."""


@dataclass(slots=True)
class Asking:
    """One request, and whether it is still waited for."""

    gone: bool = False
    mark: str = field(default_factory=lambda: f"/* {secrets.token_hex(8)} */ ")


CURRENT: Final[ContextVar[Asking | None]] = ContextVar("asking", default=None)


def marked(sql: str) -> str:
    """`sql` as the query of the present request. Raises NobodyWaits."""
    asking = CURRENT.get()
    if asking is None:
        return sql
    if asking.gone:
        raise NobodyWaits("whoever asked has gone")
    return asking.mark + sql
