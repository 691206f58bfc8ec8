"""Identifiers of predictions."""

from hashlib import sha256
from random import Random, SystemRandom
from time import time_ns

from starlette.requests import Request

from pipeline_assets.core.timed_ids import RANDOM_BITS, ms_of, timed_id
from pipeline_assets.serving.realtime.access.callers import caller_of
from pipeline_assets.serving.realtime.service.bodies import idempotency_key

# Of the ids of predictions, which are no secrets: a seed of the system, without a call of it for each.
CHANCE = Random(SystemRandom().getrandbits(256))  # noqa: S311


def prediction_ids(request: Request, model: str, body: bytes, count: int) -> list[str]:
    """An identifier for each prediction of a request, which begins with its time.

    It is the same for the same `Idempotency-Key`, caller and body, so that what a client asks for again counts once; its time is then that
    of the key, if the key has one (UUID, version 7), and else none.
    """
    key = idempotency_key(request)
    if key is None:
        now_ms = time_ns() // 1_000_000
        return [timed_id(now_ms, CHANCE.getrandbits(RANDOM_BITS)) for _ in range(count)]
    asked, at_ms = f"{caller_of(request.scope).id}/{model}/{sha256(body).hexdigest()}/{key}", ms_of(key)
    digests = (int.from_bytes(sha256(f"{asked}/{row}".encode()).digest()) for row in range(count))
    return [timed_id(at_ms, digest) for digest in digests]
