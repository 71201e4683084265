"""All of Pyroscope's interfaces as one router."""

from fastapi import APIRouter

from web.pyroscope import ingest, push, querier, render

router = APIRouter()
for _part in (ingest, push, render, querier):
    router.include_router(_part.router)
