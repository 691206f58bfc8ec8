"""Days that were materialized before: which of them a version that came late has made stale, and the proof that no other day is.

A version that is known at a time changes answers from that time on, and none before. It is late for a day that was materialized before it
came, although it was known by then: only such a day would come out otherwise if it was made again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256

from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store import vector_inputs
from pipeline_assets.model_lifecycle.feature_store.offline import Listener, silent
from pipeline_assets.model_lifecycle.feature_store.parity import SAMPLE_ROWS, Parity, check_days, spans
from pipeline_assets.spec.models import Model

# Days outside of the asked ones that each run computes anew.
SAMPLE_DAYS = 2


@dataclass(frozen=True, kw_only=True)
class OldDay:
    """A day that was materialized before beside what it would be now, and the cleaned tables of which it would read other files."""

    parity: Parity
    inputs_changed: Sequence[str]

    @property
    def is_unexplained(self) -> bool:
        """Whether the day would come out otherwise though all that it is made of is as it was."""
        return not self.parity.is_equal and not self.inputs_changed


def sample(settings: Settings, project: Project, model: Model, asked: tuple[date, date], seed: str) -> list[OldDay]:
    """Some of the days with vectors outside of the `asked` (first, last), a sample of their rows computed anew.

    The same `seed` gives the same days. One of them is taken from those whose inputs have changed, where there is any.
    """
    changed = {day: tables for day, tables in vector_inputs.changed(settings, model).items() if not asked[0] <= day <= asked[1]}
    return _compared(settings, project, model, {day: changed[day] for day in chosen(changed, seed)}, SAMPLE_ROWS)


def chosen(changed: Mapping[date, Sequence[str]], seed: str) -> list[date]:
    """SAMPLE_DAYS of the days (fewer where there are fewer): the first by a hash whose inputs have changed, then the first of all."""
    shuffled = sorted(changed, key=lambda day: sha256(f"{seed} {day}".encode()).digest())
    first = [day for day in shuffled if changed[day]][:1]
    return list(dict.fromkeys((*first, *shuffled)))[:SAMPLE_DAYS]


def days_in_question(settings: Settings, model: Model, first: date | None, last: date | None) -> dict[date, list[str]]:
    """The days with vectors from `first` to `last` (None: no limit) whose inputs have changed, with the tables; no other can be stale."""
    changed = vector_inputs.changed(settings, model)
    return {day: tables for day, tables in changed.items() if tables and (first or day) <= day <= (last or day)}


def stale_days(
    settings: Settings, project: Project, model: Model, days: Mapping[date, Sequence[str]], on_step: Listener = silent
) -> Iterator[OldDay]:
    """Of the `days_in_question` exactly those that would come out otherwise if they were made again; all their rows are computed anew.

    `on_step` is called with what is done next, as often as `steps` says.
    """
    for span in spans(days):
        on_step(f"Computing the days {span[0]} to {span[-1]}")
        found = _compared(settings, project, model, {day: days[day] for day in span}, None)
        yield from (one for one in found if not one.parity.is_equal)


def steps(days: Mapping[date, Sequence[str]]) -> int:
    """How many times `stale_days` calls `on_step`."""
    return len(spans(days))


def _compared(settings: Settings, project: Project, model: Model, changed: Mapping[date, Sequence[str]], rows: int | None) -> list[OldDay]:
    found = check_days(settings, project, model, list(changed), rows=rows)
    return [OldDay(parity=parity, inputs_changed=changed[parity.day]) for parity in found]
