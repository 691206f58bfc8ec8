"""A small app behind the guard, and a file of keys, for the tests of access."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from pipeline_assets.serving.realtime.access.audit import AUDIT
from pipeline_assets.serving.realtime.access.callers import NO_LIMITS, Limits, Role
from pipeline_assets.serving.realtime.access.credentials import Credentials
from pipeline_assets.serving.realtime.access.guard import PUBLIC, Guard, Policy
from pipeline_assets.serving.realtime.access.issuer import Issuer
from pipeline_assets.serving.realtime.access.key_file import create_key
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.sessions import Sessions

POLICY: Policy = {
    "health": PUBLIC, "predict": Role.PREDICT, "feedback": Role.FEEDBACK, "models": Role.READ, "events": Role.EVENTS, "admin": Role.ADMIN,
    "features": Role.PREDICT, "fails": Role.READ,
}  # fmt: skip


def add_key(path: Path, name: str, *roles: Role, lives: timedelta = timedelta(days=1), limits: Limits = NO_LIMITS) -> str:
    """Makes a key in a file; its text."""
    return create_key(path, name, roles, lives=lives, limits=limits)[1]


@contextmanager
def kept_audit_log() -> Iterator[None]:
    """Whatever the block does to the logger of the audit is undone after it."""
    logger = logging.getLogger(AUDIT)
    before = (list(logger.handlers), logger.level, logger.propagate)
    try:
        yield
    finally:
        added = [one for one in logger.handlers if one not in before[0]]
        logger.handlers, logger.level, logger.propagate = before
        for handler in added:
            handler.close()


async def who(request: Request) -> Response:
    """Answers by the name of the caller, and the length of the body."""
    body = await request.body()
    return JSONResponse({"caller": request.state.caller.name, "bytes": len(body)})


async def healthy(_: Request) -> Response:
    """Answers to anybody."""
    return JSONResponse({"live": True})


async def fails(_: Request) -> Response:
    """Ends by an error that nobody expects."""
    raise RuntimeError("a fault of the app")


def routes() -> list[Route | Mount]:
    """The routes of the app: one for each role, and one that no policy names."""
    return [
        Route("/v2/health/live", healthy, name="health"),
        Route("/v1/models/{model}:predict", who, methods=["POST"], name="predict"),
        Route("/v1/models/{model}:feedback", who, methods=["POST"], name="feedback"),
        Route("/v1/models", who, name="models"),
        Route("/v1/models/{model}", who, name="models"),
        Route("/v1/events/{stream}", who, methods=["POST"], name="events"),
        Route("/v1/admin", who, name="admin"),
        Route("/v1/forgotten", who, name="forgotten"),
        Route("/v1/fails", fails, name="fails"),
        Mount("/inner", app=Starlette(routes=[Route("/features", who, name="features"), Route("/open", who, name="open")])),
    ]


def guarded(keys: Keyring, *, issuer: Issuer | None = None, sessions: Sessions | None = None, policy: Policy = POLICY) -> Guard:
    """The app behind a guard."""
    listed: Sequence[Route | Mount] = routes()
    credentials = Credentials(keys=keys, issuer=issuer, sessions=sessions)
    return Guard(Starlette(routes=list(listed)), routes=listed, policy=policy, credentials=credentials)


def ask(
    app: ASGIApp, method: str, path: str, *, address: str = "192.0.2.1", url: str = "http://service.test", **given: Any
) -> httpx.Response:
    """The app's answer to one request from an address."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, client=(address, 50_000), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=url) as client:
            return await client.request(method, path, **given)

    return asyncio.run(asked())
