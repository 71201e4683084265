"""What one capture holds, by function: /api/v1/captures/{id}/top and /lines, in the shape of /api/v1/top and /lines."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from profiler.model import Profile
from web.captures import NO_SUCH_CAPTURE
from web.one_profile import lines_of_profile, top_of_profile
from web.questions import Function, Limit, OneFunction, Sort
from web.selected import ValuesAs, as_json
from web.store import captures as stored
from web.store.queries import Empty
from web.store.top import parse_function

router = APIRouter(prefix="/api/v1", tags=["captures"])


@router.get("/captures/{id}/top", response_class=Response, responses={404: {}})
def top(
    request: Request,
    id: str,
    sort: Sort = "self",
    limit: Limit = 50,
    function: Function = "",
    values: ValuesAs = "samples",
) -> Response:
    """The functions of a capture that weigh most: `self` where they are the leaf, `total` where they are anywhere on
    the stack. A sample counts once for a function. `functions` is how many there are."""
    wanted = parse_function(function) if function else None
    profile = profile_of(request, id)
    return as_json(top_of_profile(request.app.state.store, profile, wanted, sort, limit, values))


@router.get("/captures/{id}/lines", response_class=Response, responses={404: {}})
def lines(
    request: Request, id: str, wanted: OneFunction, limit: Limit = 1000, values: ValuesAs = "samples"
) -> Response:
    """One function of a capture by line of its source, as /api/v1/lines has it of the history."""
    return as_json(lines_of_profile(profile_of(request, id), wanted, limit, values))


def profile_of(request: Request, id: str) -> Profile:
    """What a capture has so far. Raises Empty where there is nothing, or no such capture."""
    store = request.app.state.store
    profile = stored.find_profile(store, id)
    if profile is None:
        raise Empty("There is nothing of this capture yet." if stored.find(store, id) else NO_SUCH_CAPTURE)
    return profile
