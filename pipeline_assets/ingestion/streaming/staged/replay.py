"""Quarantined versions of followed tables, checked again: the log is merged by the present contract.

The bytes in quarantine say what a row was and not until when. So they are not staged as they are, or else a row that was deleted since
would stand there again.
"""

from collections.abc import Sequence
from contextlib import closing

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.replay import Replayed
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.streaming.staged.state import stage_state
from pipeline_assets.spec.sources import Source


def replay_versions(settings: Settings, sources: Sequence[Source]) -> list[Replayed]:
    """Stages these followed tables again where versions of their rows wait in quarantine; one entry for each that had any.

    Raises what `stage_state` does.
    """
    quarantine.create(settings)
    found: list[Replayed] = []
    for source in sources:
        before = _waiting(settings, source)
        if before:
            stage_state(settings, source, run_id="replay")
            left = _waiting(settings, source)
            found.append(Replayed(source=source.contract.name, partition=names.SNAPSHOT, replayed=max(0, before - left), still_broken=left))
    return found


def _waiting(settings: Settings, source: Source) -> int:
    with closing(warehouse(settings)) as connection:
        return len(quarantine.waiting(connection, source.contract.name, names.SNAPSHOT))
