"""Versions of the small model that are live from a given day, for the tests of serving."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import polars as pl
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import ledger, versions
from pipeline_assets.model_lifecycle.training import archive
from pipeline_assets.model_lifecycle.training.candidate import Candidate, train_candidate
from pipeline_assets.model_lifecycle.training.dataset import build_training_set
from pipeline_assets.model_lifecycle.training.track import Origin, log_candidate
from pipeline_assets.processing.lake.tables import replace_days
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Task
from pipeline_assets_tests.model_rows import AS_OF, BINARY, DAYS, START, labels, record_of, small_model, vectors

CASE = "serving_tests"
ORIGIN = Origin(dagster_run_id="a test", job="train_small", began_at=datetime(2026, 1, 1, tzinfo=UTC))


@cache
def learned(seed: int, task: Task = BINARY) -> tuple[pa.Table, Candidate]:
    """A training set, and the candidate learned from it; another seed gives another one. Trained once a session."""
    model = small_model(task=task)
    asked = vectors(model, seed=seed)
    rows = build_training_set(model, asked, labels(model, asked), AS_OF)
    return rows, train_candidate(model, record_of(model, rows), rows, lambda _: None)


def go_live(settings: Settings, model: Model, *, seed: int, live_from: datetime) -> int:
    """Registers the version of a seed and writes into the ledger that it is live from a time on; returns its number."""
    rows, candidate = learned(seed, model.task)
    record = archive.store(settings, model, rows, AS_OF, {})
    contract = replace(candidate.contract, model=model.name, training_set=record.path, training_set_sha256=record.sha256, as_of=live_from)
    run_id = log_candidate(settings, CASE, replace(candidate, contract=contract), record, ORIGIN)
    version = versions.register(settings, model, run_id, contract)
    decision = ledger.Decision(version=version, actor="a test", reason="it is needed", live_from=live_from, contract_sha256=contract.digest)
    ledger.promote(settings, model, decision, expected_version=ledger.live_version(settings, model))
    return version


def store_vectors(settings: Settings, model: Model, days: int) -> None:
    """Puts vectors of the first days into the lake, a hundred a day."""
    asked = vectors(model, 100 * DAYS).slice(0, 100 * days)
    last = START.date() + timedelta(days=days - 1)
    replace_days(settings, names.vectors(model.name), asked, model.observations.decision_at, START.date(), last)


def store_labels(settings: Settings, model: Model) -> None:
    """The labels of all vectors, in the cleaned table."""
    # It reads this project, which is another one in processes of tests with a project of their own.
    from pipeline_assets_tests.january import store_in_warehouse, with_versions

    store_in_warehouse(settings, {model.label.table: with_versions(pl.DataFrame(labels(model, vectors(model, 100 * DAYS))))})
