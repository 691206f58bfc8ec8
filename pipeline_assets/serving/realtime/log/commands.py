"""The command `pipeline explain`: a prediction of the service, explained and replayed from what was logged."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_assets.core.foreign import LONGEST_SENTENCE, shown

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.log.explain import Explanation

SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explain)


def explain(
    prediction_id: Annotated[str, typer.Argument(help="The id of a prediction, as it was answered.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as an object.")] = False,
) -> None:
    """Explain a prediction of the service: version, features with lineage and events, contributions, and a replay to the bit.

    Exit code 1 where the replay gives other bits than were answered.
    """
    from dataclasses import asdict

    from pipeline_assets.core.declarations import load_project
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.feature_store.lineage import ProjectLineage
    from pipeline_assets.model_lifecycle.feature_store.online.feeds import feeds_of
    from pipeline_assets.processing.cleaning.dbt import project_folder
    from pipeline_assets.processing.cleaning.lineage import read_lineage
    from pipeline_assets.processing.cleaning.manifest import read_manifest
    from pipeline_assets.processing.cleaning.models import read_models
    from pipeline_assets.serving.realtime.log.explain import DIFFERS, explain_prediction

    project = load_project()
    lineage = ProjectLineage(project=project, dbt=read_lineage(project_folder()))
    feeds = feeds_of(project, read_manifest(project_folder()))
    found = explain_prediction(load_settings(), lineage, read_models(project).references, feeds, prediction_id)
    typer.echo(json.dumps(asdict(found), indent=2, default=str) if as_json else "\n".join(lines_of(found)))
    if found.replay.features == DIFFERS or not found.replay.is_score_equal:
        raise typer.Exit(1)


def lines_of(found: "Explanation") -> list[str]:
    """An explanation for people: the largest contributions, and the newest rows behind each view."""
    one, replay, is_brought = found.prediction, found.replay, found.prediction["tier"] == "caller"
    scores = ", ".join(f"{name} {shown(repr(value))}" for name, value in one["scores"].items())
    return [
        f"{one['model']} version {one['model_version']} ({one['role']}) answered {scores}",
        f"  asked at {one['asked_at'].isoformat()}, decided as of {one['decision_at'].isoformat()}, features from: {one['tier']}",
        *([] if is_brought else [f"  {_listed({**one['keys'], **one['request']})}"]),
        "Contributions:",
        *(line for each in found.features[:SHOWN] for line in _of_feature(each, is_brought=is_brought)),
        f"  and {max(len(found.features) - SHOWN, 0)} more; bias {_number(found.bias)}",
        *(["Events:"] if found.behind else []),
        *(line for each in found.behind for line in _of_view(each)),
        "Replay:",
        f"  features: {replay.features}" if is_brought else f"  features from the lake: {replay.features}",
        *(
            f"    {name}: served {shown(repr(served))}, the lake gives {shown(repr(lake))}"
            for name, (served, lake) in replay.differing.items()
        ),
        f"  score of the packaged model: {'equal to the bit' if replay.is_score_equal else 'differs'}",
    ]


def _of_feature(one: Any, *, is_brought: bool) -> list[str]:
    origins = "the caller" if is_brought else ", ".join(one.computed_from) or "the events as such"
    return [f"  {_number(one.contribution)}  {one.name} = {shown(repr(one.value))}", f"      from {origins}"]


def _of_view(one: Any) -> list[str]:
    if one.problem is not None:
        return [f"  {one.view}: {shown(one.problem, LONGEST_SENTENCE)}"]
    return [f"  {one.view}: {one.rows} rows, the newest:", *(f"    {_listed(row)}" for row in one.newest)]


def _number(value: Any) -> str:
    return _listed({name: f"{each:+.4f}" for name, each in value.items()}) if isinstance(value, dict) else f"{value:+.4f}"


def _listed(values: Any) -> str:
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())
