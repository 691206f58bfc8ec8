"""How old the newest row of a lake table is by the clock of its use case, held against what its contract promises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pipeline_assets.core import names
from pipeline_assets.core.clocks import clock_of, replayed_to
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.iceberg import metadata_of, open_table
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.state_errors import StateFileDamaged
from pipeline_assets.processing.lake import files
from pipeline_assets.processing.lake.awaited import Awaited
from pipeline_assets.spec.contracts import Contract


@dataclass(frozen=True, kw_only=True)
class Newest:
    """When the newest row of a table happened (UTC; None: it has no row), and where the metadata are that say so."""

    metadata: str
    at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """The newest row of a source beside a clock (UTC; None: its days have ended, and nothing is awaited, or `damage` says why not)."""

    awaited: Awaited
    newest_at: datetime | None
    clock: datetime | None
    is_replayed: bool
    damage: str | None = None

    @property
    def age(self) -> timedelta | None:
        """How old the newest row is, nothing for a plan of what is to come; None where there is no row, or no clock."""
        if self.newest_at is None or self.clock is None:
            return None
        return max(self.clock - self.newest_at, timedelta(0))

    @property
    def is_fresh(self) -> bool:
        """Whether the promise of the contract is kept."""
        if self.damage is not None:
            return False
        return self.clock is None or (self.age is not None and self.age <= self.awaited.contract.freshness)

    @property
    def in_words(self) -> str:
        """What was found and what was promised, and for one that is not fresh what to do."""
        name, promised = self.awaited.contract.name, self.awaited.contract.freshness
        if self.damage is not None:
            return f"How old the newest row is cannot be said: {self.damage}"
        if self.clock is None:
            return f"The days of {self.awaited.use_case} ended on {self.awaited.last_day}: nothing newer is awaited."
        clock = f"by the {'replay clock' if self.is_replayed else 'clock'} at {self.clock:%Y-%m-%d %H:%M} UTC"
        todo = f"See whether the source still delivers, and the newest runs of staged/{name}."
        if self.newest_at is None:
            return f"There is no row {clock}; the newest may be {promised} old. {todo}"
        found = f"The newest row is of {self.newest_at:%Y-%m-%d %H:%M} UTC, {self.age} old {clock}; {promised} may be."
        return found if self.is_fresh else f"{found} {todo}"


def read_newest(settings: Settings, contracts: Sequence[Contract], before: Mapping[str, Newest]) -> dict[str, Newest]:
    """By contract the newest row of its lake table, read from the table's metadata; contracts without a table are left out.

    `before` is what was known: a table that nothing was committed to since is not opened.
    """
    located = metadata_of(settings, names.LAKE)
    known = [contract for contract in contracts if contract.name in located]
    found = {one.name: before[one.name] for one in known if one.name in before and before[one.name].metadata == located[one.name]}
    unread = [contract for contract in known if contract.name not in found]
    return {**found, **{one.name: Newest(metadata=located[one.name], at=_newest_at(settings, one)) for one in unread}}


def without_table(
    awaited: Sequence[Awaited], newest: Mapping[str, Newest], before: Mapping[str, datetime], now: datetime
) -> dict[str, datetime]:
    """The sources that have no table while others of their use case have one, by name with the look (UTC) since which it is so."""
    begun = {one.use_case for one in awaited if one.contract.name in newest}
    lacking = [one.contract.name for one in awaited if one.use_case in begun and one.contract.name not in newest]
    return {name: before.get(name, now) for name in lacking}


def all_judged(
    home: Path, awaited: Sequence[Awaited], newest: Mapping[str, Newest], missing: Mapping[str, datetime], now: datetime
) -> list[Freshness]:
    """The sources that have a table, or have had none for as long as their newest row may be old (`missing`, of `without_table`)."""
    promised = {one.contract.name: one.contract.freshness for one in awaited}
    looked_at = {*newest, *(name for name, since in missing.items() if now - since >= promised[name])}
    return [judged(home, one, newest.get(one.contract.name), now) for one in awaited if one.contract.name in looked_at]


def judged(home: Path, awaited: Awaited, newest: Newest | None, now: datetime) -> Freshness:
    """A source at a moment: `newest` is what `read_newest` gave of it, None where it has no table."""
    newest_at = None if newest is None else newest.at
    try:
        clock = clock_of(home, awaited.use_case, awaited.last_day, now)
        is_replayed = replayed_to(home, awaited.use_case) is not None
    except StateFileDamaged as error:
        return Freshness(awaited=awaited, newest_at=newest_at, clock=None, is_replayed=True, damage=str(error))
    return Freshness(awaited=awaited, newest_at=newest_at, clock=clock, is_replayed=is_replayed)


def _newest_at(settings: Settings, contract: Contract) -> datetime | None:
    with catalog(settings) as lake:
        table = open_table(lake, names.lake(contract.name))
        held = [] if table is None else [files.content(table, contract.event_at, file) for file in files.live_files(table)]
    return max((one.last_at for one in held if one.last_at is not None), default=None)
