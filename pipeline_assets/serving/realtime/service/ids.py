"""Identifiers of predictions."""

from hashlib import sha256
from random import Random, SystemRandom
from uuid import UUID, uuid5

from starlette.requests import Request

from pipeline_assets.serving.realtime.access.callers import caller_of
from pipeline_assets.serving.realtime.service.bodies import idempotency_key

# The space of the identifiers of predictions with a client's own key; never change it.
SPACE = UUID("0c2f4f0a-51c7-5b39-8f4e-7b0b6a1b6f6d")
# Of the ids of predictions, which are no secrets: a seed of the system, without a call of it for each.
CHANCE = Random(SystemRandom().getrandbits(256))  # noqa: S311


def prediction_ids(request: Request, model: str, body: bytes, count: int) -> list[str]:
    """An identifier for each prediction of a request.

    It is the same for the same `Idempotency-Key`, caller and body, so that what a client asks for again counts once.
    """
    key = idempotency_key(request)
    if key is None:
        return [str(UUID(int=CHANCE.getrandbits(128), version=4)) for _ in range(count)]
    asked = f"{caller_of(request.scope).id}/{model}/{sha256(body).hexdigest()}/{key}"
    return [str(uuid5(SPACE, f"{asked}/{row}")) for row in range(count)]
