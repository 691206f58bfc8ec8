"""Feeds: what keeps views online together. All views of one cleaned table that are kept in the same way follow one feed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pipeline_assets.core.columns import ColumnKind
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.project import Project
from pipeline_assets.processing.cleaning.derivations import Derivation, derivation_of
from pipeline_assets.processing.features.catalogue import lookback, view_hash
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.features import CleanedTable, FeatureView
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.sources import EventStream

if TYPE_CHECKING:
    from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout

Kind = Literal["stream", "table"]
# Of the packed states, as `codec` writes them: part of the hash of a feed.
VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Feed:
    """The views that one cleaned table keeps online.

    kinds: those of its columns. A stream's rows are derived from its records; a table's are read from the lake.
    """

    table: CleanedTable
    views: tuple[FeatureView, ...]
    kinds: Mapping[str, ColumnKind]
    stream: EventStream | None = None
    derivation: Derivation | None = None

    @property
    def kind(self) -> Kind:
        """How it is kept."""
        return "table" if self.stream is None else "stream"

    @property
    def name(self) -> str:
        """The cleaned table, and how it is followed."""
        return f"{self.table.name}:{self.kind}"

    @property
    def contract(self) -> Contract:
        """The contract of the records of a stream's feed; raises ValueError for another."""
        if self.stream is None:
            raise ValueError(f"Feed {self.name} has no records.")
        return self.stream.contract

    @cached_property
    def layouts(self) -> "tuple[Layout, ...]":
        """The shapes of the states of its views, in their order."""
        from pipeline_assets.model_lifecycle.feature_store.online.layout import layout_of

        return tuple(layout_of(view, self.kinds) for view in self.views)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cleaned table that its views read, each once."""
        source = self.table
        keys = [key for view in self.views for key in view.entity.keys]
        own = [feature.column for view in self.views for feature in view.features if feature.column is not None]
        ends = () if source.superseded_at is None else (source.superseded_at,)
        return tuple(dict.fromkeys((*keys, *own, source.event_at, source.known_at, *ends, *source.order_by)))

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of all that its states depend on: another text of a model or a view is another version of the feed."""
        derived = "" if self.derivation is None else self.derivation.digest
        parts = [VERSION, self.name, derived, [[view.name, view_hash(view)] for view in self.views]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @cached_property
    def lookback_us(self) -> int | None:
        """How long before a question an event can have happened and still count, in microseconds; None without a limit."""
        spans = [lookback(view) for view in self.views]
        limited = [span for span in spans if span is not None]
        return max(int(span.total_seconds() * 1_000_000) for span in limited) if len(limited) == len(spans) else None


def feeds_of(project: Project, manifest: Mapping[str, Any]) -> tuple[Feed, ...]:
    """The feeds of all views that are served online."""
    grouped: dict[tuple[CleanedTable, str], list[FeatureView]] = {}
    for view in project.views:
        if view.online is not None:
            grouped.setdefault((view.source, view.online), []).append(view)
    return tuple(_feed(project, manifest, table, kind, views) for (table, kind), views in grouped.items())


def feed_of(feeds: tuple[Feed, ...], view: FeatureView) -> Feed:
    """The feed that keeps a view; raises UnknownName for one that is not served online."""
    for feed in feeds:
        if view in feed.views:
            return feed
    raise UnknownName("view that is served online", view.name, [one.name for feed in feeds for one in feed.views])


def feeds_of_model(feeds: tuple[Feed, ...], model: Model) -> tuple[Feed, ...]:
    """The feeds that keep the views of a model, each once."""
    return tuple(dict.fromkeys(feed_of(feeds, view) for view in model.views))


def _feed(project: Project, manifest: Mapping[str, Any], table: CleanedTable, kind: str, views: list[FeatureView]) -> Feed:
    kinds = project.tables[table.name]
    if kind == "table":
        return Feed(table=table, views=tuple(views), kinds=kinds)
    derivation = derivation_of(manifest, table.name)
    stream = next(one for one in project.streams if one.contract.name == derivation.source)
    return Feed(table=table, views=tuple(views), kinds=kinds, stream=stream, derivation=derivation)
