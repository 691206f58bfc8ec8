"""Records that did not land, asked of the topic itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from pipeline_assets.core.errors import OffsetsMissing
from pipeline_assets.core.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Refetched:
    """A record as the topic holds it; `received_at` (aware) is its time, None where the topic keeps none."""

    offset: int
    payload: bytes | None
    received_at: datetime | None


# Asked with topic, partition, first and last offset (inclusive), it gives the records that there are, in order. An offset that it leaves
# out holds no record: a mark of a transaction, one that was aborted, or one that the topic no longer keeps. It raises if it cannot tell.
Refetch = Callable[[str, int, int, int], Iterable[Refetched]]


def refetch_from(_settings: Settings) -> Refetch:
    """How the platform of these settings is asked for records that did not land."""
    return refuse


def refuse(topic: str, partition: int, first: int, last: int) -> Iterable[Refetched]:
    """Raises OffsetsMissing: there is nobody to ask."""
    raise OffsetsMissing(topic, partition, first, last, "there is no connection to Kafka to fetch them from")
