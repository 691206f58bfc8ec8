"""The assets of the online store: what keeps the views of a cleaned table online, and the check that it is kept."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, dagster_errors, key, use_case_tags
from pipeline_assets.model_lifecycle.feature_store.online.feeds import VERSION, Feed, feeds_of
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.spec.use_case import UseCase

if TYPE_CHECKING:
    from pipeline_assets.model_lifecycle.feature_store.online.facts import Facts

DESCRIPTION = "A worker keeps it, makes progress, and has caught up with its source within the least freshness that its views promise."
Metadata = dict[str, dg.MetadataValue | int | float | str]


def declared_feeds(project: Project) -> tuple[Feed, ...]:
    """The feeds of the views that are served online."""
    return feeds_of(project, read_manifest(project_folder()))


def online_views(project: Project, feed: Feed) -> dg.AssetsDefinition:
    """The views of a feed; materializing builds them, where they are not online as they are declared now, and shows what is kept."""
    views = ", ".join(view.name for view in feed.views)

    @dg.asset(
        key=key(names.online_views(feed.table.name, feed.kind)),
        deps=[key(one) for one in _read_by(feed)],
        group_name=names.FEATURE_STORE,
        kinds={"postgres"},
        owners=sorted({view.owner for view in feed.views}),
        code_version=feed.hash[:12],
        # Not the pool of the vectors, which would wait for a build.
        pool=names.ONLINE,
        tags=use_case_tags(home_of(project, feed)),
        description=f"What {views} are now, kept by a worker outside of Dagster. One state per view and entity.",
    )
    def built(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        from pipeline_assets.model_lifecycle.feature_store.online.build import build_missing
        from pipeline_assets.model_lifecycle.feature_store.online.facts import read_facts

        with dagster_errors():
            done = build_missing(platform.settings, feed, context.log.info)
            (facts,) = read_facts(platform.settings, [feed], datetime.now(UTC))
        read: Metadata = {} if done is None else {"rows_read": done.read}
        return dg.MaterializeResult(metadata={**_metadata(feed, facts), **read})

    return built


def home_of(project: Project, feed: Feed) -> UseCase:
    """The use case whose job builds a feed."""
    return project.home_of_view(feed.views[0])


def specs(feeds: Sequence[Feed]) -> list[dg.AssetCheckSpec]:
    """The check of each feed."""
    return [dg.AssetCheckSpec(names.IS_PROGRESSING, asset=_key(feed), description=DESCRIPTION) for feed in feeds]


def is_kept(feeds: Sequence[Feed]) -> dg.AssetChecksDefinition:
    """The check that the feeds are kept, by what workers report; it can be evaluated at any time, and a sensor does."""

    @dg.multi_asset_check(name=f"online_{names.IS_PROGRESSING}", specs=specs(feeds), can_subset=True)
    def checked(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[dg.AssetCheckResult]:
        from pipeline_assets.model_lifecycle.feature_store.online.facts import read_facts

        chosen = [feed for feed in feeds if _key(feed) in {one.asset_key for one in context.selected_asset_check_keys}]
        with dagster_errors():
            found = read_facts(platform.settings, chosen, datetime.now(UTC))
        for feed, facts in zip(chosen, found, strict=True):
            yield dg.AssetCheckResult(
                asset_key=_key(feed),
                check_name=names.IS_PROGRESSING,
                passed=facts["trouble"] is None,
                severity=dg.AssetCheckSeverity.ERROR,
                metadata=verdict(facts),
            )

    return checked


def verdict(facts: "Facts") -> Metadata:
    """What the check shows of a feed."""
    shown: Metadata = {"lag": facts["lag"], "workers": facts["workers"], "known_to": str(facts["known_to"])}
    return shown if facts["trouble"] is None else {**shown, "problem": facts["trouble"], "what to do": facts["todo"]}


def _key(feed: Feed) -> dg.AssetKey:
    return key(names.online_views(feed.table.name, feed.kind))


def _read_by(feed: Feed) -> list[names.AssetName]:
    """What the states are built from."""
    if feed.stream is None:
        return [names.cleaned(feed.table.name)]
    return [names.lake(feed.contract.name), names.typed(feed.contract.name)]


def _metadata(feed: Feed, facts: "Facts") -> Metadata:
    return {
        **verdict(facts),
        names.ROW_COUNT: facts["keys"],
        "keys": facts["keys"],
        "rows": facts["rows"],
        "bytes_of_states": facts["bytes"],
        "bytes_per_key": round(facts["bytes"] / facts["keys"], 1) if facts["keys"] else 0.0,
        "largest_state": facts["largest_state"],
        "state_format": VERSION,
        "definition_hash": feed.hash,
        "views": dg.MetadataValue.json(facts["views"]),
        "offsets": dg.MetadataValue.json({str(partition): offset for partition, offset in facts["offsets"].items()}),
    }
