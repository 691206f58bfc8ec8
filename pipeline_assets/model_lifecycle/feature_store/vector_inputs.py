"""What the vectors of each day were made from, and which days are made of something else by now."""

from collections.abc import Mapping, Sequence
from datetime import date

from pipeline_assets.core import names
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.features import inputs
from pipeline_assets.processing.features.cleaned import Snapshots, midnight, snapshots_of
from pipeline_assets.processing.lake import tables
from pipeline_assets.processing.lake.files import Content
from pipeline_assets.processing.lake.tables import Inputs
from pipeline_assets.spec.models import Model

UNKNOWN, WIDTH, SEPARATOR = "?", 16, "."


def inputs_of(settings: Settings, model: Model, days: Sequence[date], snapshots: Snapshots) -> Inputs:
    """Of each day a digest of the files that its observations come from, and one for each view of those that its features come from.

    Features that were made from other files than those at `snapshots`, or are not the newest, count as unknown. Settled are the days whose
    vectors were made from exactly this, nothing of it unknown, and are still those that were made, in undamaged files.
    """
    found = _parts(settings, model, days, snapshots)
    for number, view in enumerate(model.views, start=1):
        table = names.features(view.name)
        snapshot, made_from = tables.made_from(settings, table)
        is_newest = snapshot == snapshots[".".join(table)]
        for day, parts in found.items():
            if not is_newest or day not in made_from or made_from[day].digest[:WIDTH] != parts[number]:
                parts[number] = UNKNOWN
    digests = {day: SEPARATOR.join(parts) for day, parts in found.items()}
    _, before = tables.made_from(settings, names.vectors(model.name), days)
    known = [day for day, parts in found.items() if UNKNOWN not in parts and day in before]
    return Inputs(digests=digests, settled={day for day in known if before[day].digest == digests[day]})


def changed(settings: Settings, model: Model) -> dict[date, list[str]]:
    """Of each day that has vectors, the cleaned tables of which other files count for it by now than when it was made.

    A version that came late is in another file, as is one that changes nothing for the day: so the vectors of a day with none are what
    they were, and those of a day with some may be, too. Of days whose inputs are not known, all tables count. Days from before the versions
    that a table keeps are left out: nothing can be said of them any more.
    """
    since = [kept for source in sources_of(model) if (kept := tables.versions_since(settings, source)) is not None]
    known = [day for day in tables.days(settings, names.vectors(model.name)) if all(kept <= midnight(day) for kept in since)]
    now = _parts(settings, model, known, snapshots_of(settings, sources_of(model)))
    _, made_from = tables.made_from(settings, names.vectors(model.name))
    of_parts = [model.observations.table, *(view.source.name for view in model.views)]
    before = {day: made_from[day].digest if day in made_from else UNKNOWN for day in now}
    return {day: _differing(of_parts, before[day].split(SEPARATOR), parts) for day, parts in now.items()}


def sources_of(model: Model) -> list[AssetName]:
    """The cleaned tables that a model's vectors come from, in the lake."""
    return [names.cleaned(name) for name in dict.fromkeys((model.observations.table, *(view.source.name for view in model.views)))]


def _differing(of_parts: Sequence[str], made_from: Sequence[str], now: Sequence[str]) -> list[str]:
    if len(made_from) != len(now):
        return list(dict.fromkeys(of_parts))
    return list(dict.fromkeys(table for table, before, after in zip(of_parts, made_from, now, strict=True) if before != after))


def _parts(settings: Settings, model: Model, days: Sequence[date], snapshots: Snapshots) -> dict[date, list[str]]:
    asked = model.observations
    read = {(asked.table, asked.decision_at), *((view.source.name, view.source.event_at) for view in model.views)}
    contents = {(table, time): _contents(settings, table, time, snapshots) for table, time in read}
    found = [inputs.of_observations(model, contents[asked.table, asked.decision_at], days)]
    found += [inputs.digests(view, contents[view.source.name, view.source.event_at], days) for view in model.views]
    return {day: [part[day][:WIDTH] for part in found] for day in days}


def _contents(settings: Settings, table: str, event_at: str, snapshots: Mapping[str, int]) -> list[Content]:
    name = names.cleaned(table)
    return tables.contents(settings, name, event_at, snapshots[".".join(name)])
