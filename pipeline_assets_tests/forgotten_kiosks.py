"""The kiosks from their sources to vectors, predictions and online states, for the tests of forgetting; and a job that is killed."""

import gzip
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from hashlib import sha256
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.columns import cleaned_models
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.setting_values import FileFolder
from pipeline_assets.core.settings import PREFIX, Settings, load_settings
from pipeline_assets.forgetting import ledger
from pipeline_assets.forgetting.job import Declared, forget
from pipeline_assets.ingestion.batch import assets as batch
from pipeline_assets.model_lifecycle.feature_store import offline
from pipeline_assets.model_lifecycle.feature_store.online.build import build
from pipeline_assets.model_lifecycle.feature_store.online.feeds import feeds_of
from pipeline_assets.model_lifecycle.registry import versions
from pipeline_assets.model_lifecycle.training import archive
from pipeline_assets.model_lifecycle.training.track import log_candidate
from pipeline_assets.processing.cleaning import assets as cleaning
from pipeline_assets.processing.cleaning.lineage import read_lineage
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.processing.features import assets as features
from pipeline_assets.processing.lake import assets as lake
from pipeline_assets.serving.batch import predictions
from pipeline_assets_tests.kiosks import FOLDER, MODELS, SERVICE, kiosk, model, takings, weather
from pipeline_assets_tests.library import dbt_project_of
from pipeline_assets_tests.live_models import ORIGIN, learned
from pipeline_assets_tests.model_rows import record_of, small_model
from pipeline_assets_tests.readings import Answer, Api, day, serving
from pipeline_assets_tests.stack_env import write_stack_env
from pipeline_assets_tests.unit.ingestion.batch.test_rest_kinds import answered

# As no other text of any test.
KEY = "kiosk-Zq7Qx"
FIRST, LAST = day(0), day(1)
LINE = "{number};{kiosk};{price};{on}T{hour:02}:00:00Z;{on}T{hour:02}:00:05Z\n"


def sales_of(on: date, price: str) -> bytes:
    """The sales of a day of three kiosks, one line of each broken."""
    number, lines = on.day * 100, "sale_id;kiosk;price;sold_at;recorded_at\n"
    for place in (KEY, "pier", "beach"):
        for hour, paid in ((8, price), (12, "2.50"), (20, "0.10"), (21, "1e400")):
            number += 1
            lines += LINE.format(number=number, kiosk=place, price=paid, on=on, hour=hour)
    return gzip.compress(lines.encode())


def measured(api: Api, query: dict[str, str]) -> Answer:
    """The temperatures of each kiosk on the day that is asked for, all on the first page."""
    on = "-".join(api.paths[-1].split("/")[-3:])
    rows = [
        {"kiosk": place, "temperature": 10.5 + hour, "measured_at": f"{on}T{hour:02}:00:00Z", "published_at": f"{on}T{hour:02}:10:00Z"}
        for place in (KEY, "pier", "beach")
        for hour in (7, 11, 19)
    ]
    return answered({"data": {"items": rows if query["page"] == "1" else []}})


@dataclass(frozen=True, kw_only=True)
class Kiosks:
    """A world of kiosks: its settings, its project with the dbt project, and where its files come in."""

    settings: Settings
    home: Path
    definitions: dg.Definitions

    @property
    def declared(self) -> Declared:
        """What is declared of it."""
        return declared_in(self.home)

    def bring(self, price: str) -> None:
        """Has files come in that say this price, and materializes all up to the features of two days."""
        for on in (FIRST, LAST):
            file = self.home / f"inbox/sales/{on:%Y-%m-%d}/till.csv.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(sales_of(on, price))
        chosen = dg.AssetSelection.assets(key(names.features(takings.name)), key(names.features(weather.name))).upstream()
        result = dg.materialize(
            [asset for asset in self.definitions.assets or () if isinstance(asset, dg.AssetsDefinition)],
            selection=chosen,
            resources={**(self.definitions.resources or {}), "platform": Platform(home=str(self.home))},
            tags=names.range_tags(FIRST, LAST),
        )
        assert result.success

    def serve(self) -> None:
        """Makes vectors, predictions and online states."""
        offline.materialize_vectors(self.settings, model, FIRST, LAST)
        vectors = offline.vectors(self.settings, model, FIRST, LAST)
        with predictions.replacing(self.settings, model, FIRST, LAST, vectors.schema) as replacement:
            replacement.add(scored(vectors))
            replacement.finish("a test", None)
        for feed in self.declared.feeds:
            build(self.settings, feed, lambda _: None)

    def keep_training_set(self) -> tuple[str, pa.Table]:
        """A training set of the vectors of both days: where it is, and its rows."""
        rows, sink = offline.vectors(self.settings, model, FIRST, LAST).replace_schema_metadata(None).combine_chunks(), BytesIO()
        pq.write_table(rows, sink)
        digest = sha256(sink.getvalue()).hexdigest()
        place = f"{'/'.join(names.training_set(model.name))}/{digest}{archive.SUFFIX}"
        object_store(self.settings).put_object(Bucket=self.settings.s3_bucket, Key=place, Body=sink.getvalue())
        return f"s3://{self.settings.s3_bucket}/{place}", rows

    def learn_from(self, path: str, seed: int) -> int:
        """The version of a model that says that it learned from a training set."""
        rows, learnt = learned(seed)
        digest = archive.digest_of(path)
        contract = replace(learnt.contract, model=model.name, training_set=path, training_set_sha256=digest)
        record = replace(record_of(small_model(), rows), model=model.name, path=path, sha256=digest)
        run_id = log_candidate(self.settings, "kiosk", replace(learnt, contract=contract), record, ORIGIN)
        return versions.register(self.settings, model, run_id, contract)


def scored(vectors: pa.Table) -> pa.Table:
    """Scores of vectors, as the table of predictions has them."""
    count = vectors.num_rows
    made: dict[str, Any] = {
        "prediction_id": [str(uuid4()) for _ in range(count)],
        "sale_id": vectors["sale_id"],
        names.DECISION_AT: vectors[model.observations.decision_at],
        names.FEATURE_HASH: vectors[names.FEATURE_HASH],
        "score": [0.5] * count,
        "model_version": [1] * count,
    }
    return pa.table(made)


def declared_in(home: Path) -> Declared:
    """What is declared in a world whose dbt project was made."""
    folder = home / "project"
    project = Project(use_cases=(kiosk,), tables=cleaned_models(folder))
    return Declared(project=project, dbt=read_lineage(folder), feeds=feeds_of(project, read_manifest(folder)))


@contextmanager
def kiosks(isolated: Settings, home: Path) -> Iterator[Kiosks]:
    """A world of its own whose API answers until the block ends."""
    dbt_project_of(home / "project", Project(use_cases=(kiosk,)), MODELS, {})
    project = Project(use_cases=(kiosk,), tables=cleaned_models(home / "project"))
    with serving(isolated, measured) as (_, settings), pytest.MonkeyPatch.context() as patch:
        service = settings.services[SERVICE].model_copy(update={"api_key": None, "token": SecretStr("ice")})
        folders = {FOLDER: FileFolder(url=(home / "inbox").as_uri())}
        own = settings.model_copy(update={"services": {**settings.services, SERVICE: service}, "folders": folders})
        write_stack_env(own, home)
        patch.setenv(f"{PREFIX}DBT_PROJECT", str(home / "project"))
        definitions = dg.Definitions.merge(*(room.defs(project) for room in (batch, lake, cleaning, features)))
        yield Kiosks(settings=own, home=home, definitions=definitions)


class Countdown:
    """Kills its process when it has been called so often."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, *_: object) -> None:
        """Counts, and at last kills."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def forget_and_be_killed(home: Path, after: int) -> int:
    """Forgets the kiosk in a process of its own that kills itself after so many steps and notes; its exit code."""
    process = get_context("spawn").Process(target=_forget, args=(home, after))
    process.start()
    process.join(timedelta(minutes=3).total_seconds())
    assert process.exitcode is not None
    return process.exitcode


def _forget(home: Path, after: int) -> None:
    os.environ[f"{PREFIX}HOME"] = str(home)
    os.environ[f"{PREFIX}DBT_PROJECT"] = str(home / "project")
    count, note = Countdown(after), ledger.Job.note

    def counted(job: ledger.Job, name: str, value: object) -> None:
        note(job, name, value)
        count()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger.Job, "note", counted)
        forget(load_settings(), declared_in(home), "kiosk", [KEY], partial(count))
