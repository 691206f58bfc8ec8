"""Predictions of an entity in their log, and what was said of them afterwards.

The log has the entity keys of a question as JSON in one field, of a model whose views may be about several entities. Feedback names
predictions by their ids.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.core.prediction_streams import prediction_feedback, prediction_log
from pipeline_assets.core.project import Project
from pipeline_assets.forgetting.identity import Identity
from pipeline_assets.forgetting.matches import Condition, Match
from pipeline_assets.ingestion.sources.forgotten import WITHIN
from pipeline_assets.model_lifecycle.feature_store.spine import entity_keys

if TYPE_CHECKING:
    import psycopg

LOG, FEEDBACK = prediction_log.contract.name, prediction_feedback.contract.name
ID = (prediction_log.contract.primary_key[0],)
ROWS_AT_ONCE = 10_000
READ = f"select {ID[0]}, model, keys, request from raw.{LOG} where model = any(%s)"  # noqa: S608 - names of ours


def asked_about(project: Project, identity: Identity, key: tuple[str, ...]) -> tuple[Condition, ...]:
    """The predictions whose question is about the entity, of each model that knows it."""
    found = []
    for model in project.models:
        keys, requested = set(entity_keys(model)), {feature.column for feature in model.request_features}
        for columns in identity.of(names.cleaned(model.observations.table)):
            if keys | requested >= set(columns):
                places = [f"{'keys' if column in keys else 'request'}{WITHIN}{column}" for column in columns]
                found.append(Condition(columns=("model", *places), keys=frozenset({(model.name, *key)})))
    return tuple(found)


def by_id(ids: frozenset[tuple[str, ...]]) -> Condition:
    """The rows about some predictions."""
    return Condition(columns=ID, keys=ids)


def ids_in_warehouse(connection: "psycopg.Connection", match: Match) -> Iterator[tuple[str, ...]]:
    """The ids of the predictions in the warehouse that meet it, whose JSON need not be one that Postgres reads."""
    models = sorted({key[0] for one in match.conditions for key in one.keys})
    with connection.cursor(name="predicted") as cursor:
        cursor.itersize = ROWS_AT_ONCE
        for number, model, keys, request in cursor.execute(READ, [models]):
            if match.names({"model": model, "keys": keys, "request": request}):
                yield (number,)
