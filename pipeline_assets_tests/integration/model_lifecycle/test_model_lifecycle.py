"""From vectors and labels to a live version and back, on real services: training set, candidate, gate, ledger, aliases, roll back."""

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex

import dagster as dg
import mlflow.pyfunc
import mlflow.xgboost
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from psycopg import sql
from typer.testing import CliRunner

from pipeline_assets.core import names
from pipeline_assets.core.accounts import account_name
from pipeline_assets.core.connections import object_store, online, tracking, warehouse
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import ArtifactCorrupt, ModelRejected, NotTrained, PromotionRefused, UnknownName, UserInputError
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.findings import write_finding
from pipeline_assets.model_lifecycle.feature_store.online.recomputed import ServedParity
from pipeline_assets.model_lifecycle.registry import aliases, by_hand, commands, ledger, parts, trials, versions
from pipeline_assets.model_lifecycle.registry import assets as registry_assets
from pipeline_assets.model_lifecycle.registry.gate import broken
from pipeline_assets.model_lifecycle.registry.judgement import Judgement, judge_candidate
from pipeline_assets.model_lifecycle.registry.sensors import aliases_mirrored
from pipeline_assets.model_lifecycle.training import archive
from pipeline_assets.model_lifecycle.training import assets as training_assets
from pipeline_assets.model_lifecycle.training.blocks import HOLDOUT
from pipeline_assets.model_lifecycle.training.candidate import train_candidate
from pipeline_assets.model_lifecycle.training.dataset import build_training_set, only
from pipeline_assets.model_lifecycle.training.inputs import end_of_vectors, read_inputs
from pipeline_assets.model_lifecycle.training.logged_model import MODEL_FILE
from pipeline_assets.model_lifecycle.training.track import CLASSIC, CONTRACT_FILE, GROUPS_FILE, KIND_TAG, experiment_id, log_candidate
from pipeline_assets.processing.features.catalogue import definition_hash
from pipeline_assets.processing.lake.tables import replace_days, snapshot_id
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Task
from pipeline_assets.spec.use_case import UseCase
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.january import store_in_warehouse, with_versions
from pipeline_assets_tests.live_models import ORIGIN
from pipeline_assets_tests.model_rows import AS_OF, MULTICLASS, REGRESSION, SIGNAL, START, TASKS, labels, small_model, vectors
from pipeline_assets_tests.stack_env import write_stack_env

Step = Callable[[str], names.AssetName]
TRAINING: tuple[Step, ...] = (names.training_set, names.candidate)
OF_EACH_TASK = pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
WHOLE: tuple[Step, ...] = (*TRAINING, names.champion)


@dataclass(frozen=True, kw_only=True)
class House:
    """Services with an empty warehouse, lake and bucket, and one model of its own name."""

    settings: Settings
    model: Model

    @property
    def use_case(self) -> UseCase:
        """The use case of the model."""
        return replace(flights, name=f"case_of_{self.model.name}", models=(self.model,))

    @property
    def platform(self) -> Platform:
        """The resource that an asset gets."""
        return Platform(home=str(self.settings.home))

    def fill(self, *, seed: int = 11, known: pa.Table | None = None) -> pa.Table:
        """Puts vectors into the lake and labels into the warehouse, in the place of those before; returns the vectors."""
        asked = vectors(self.model)
        known = labels(self.model, asked, seed=seed) if known is None else known
        last = (AS_OF - timedelta(days=1)).date()
        replace_days(self.settings, names.vectors(self.model.name), asked, "decision_at", START.date(), last)
        store_in_warehouse(self.settings, {self.model.label.table: with_versions(pl.DataFrame(known))})
        return asked

    def run(
        self, *, as_of: str | None = None, steps: tuple[Step, ...] = WHOLE, config: Mapping[Step, Mapping[str, str]] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Training set, candidate and champion in one run, as the training job does; or some of them, each with its config."""
        job = dg.define_asset_job("train", executor_def=dg.in_process_executor)
        project, wiring = Project(use_cases=(self.use_case,)), dg.Definitions(resources={"platform": self.platform}, jobs=[job])
        definitions = dg.Definitions.merge(training_assets.defs(project), registry_assets.defs(project), wiring)
        given: dict[Step, Mapping[str, str]] = {**(config or {})}
        if as_of is not None:
            given[names.training_set] = {"as_of": as_of}
        return definitions.resolve_job_def("train").execute_in_process(
            run_config={"ops": {self.node(step): {"config": dict(values)} for step, values in given.items()}},
            asset_selection=[key(step(self.model.name)) for step in steps],
            raise_on_error=False,
        )

    def train(self, change: Callable[[pa.Table], pa.Table] = lambda rows: rows) -> str:
        """A finished candidate of labels that follow the signal, after a change to the training set's rows; returns its run."""
        asked = vectors(self.model)
        rows = change(build_training_set(self.model, asked, labels(self.model, asked), AS_OF))
        record = archive.store(self.settings, self.model, rows, AS_OF, {"feature_store": 1})
        archive.publish(self.settings, self.model, record)
        candidate = train_candidate(self.model, record, archive.read(self.settings, record), lambda _: None)
        return log_candidate(self.settings, self.use_case.name, candidate, record, ORIGIN)

    def judge(self, run_id: str) -> Judgement:
        """What becomes of a candidate."""
        return judge_candidate(self.settings, self.model, run_id, actor="a test")

    def node(self, step: Step) -> str:
        """The name of a step in a run."""
        return "__".join(step(self.model.name))

    def metadata(self, result: dg.ExecuteInProcessResult, step: Step) -> dict[str, object]:
        """The metadata of a materialization."""
        (event,) = result.asset_materializations_for_node(self.node(step))
        return {name: value.value for name, value in event.metadata.items()}

    def tick(self, sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
        """What a sensor answers; what it evaluated is noted, as the daemon notes it."""
        with dg.build_sensor_context(instance, resources={"platform": self.platform}, cursor=cursor) as context:
            result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        for event in result.asset_events:
            instance.report_runless_asset_event(event)
        return result

    def aliases(self) -> dict[str, int]:
        """What MLflow says is live and was live before."""
        found = tracking(self.settings).get_registered_model(self.model.name).aliases
        return {alias: int(version) for alias, version in found.items()}


@pytest.fixture
def house(isolated: Settings, stack: Settings, tmp_path: Path) -> House:
    """Services with an empty warehouse, lake and bucket, and a model of its own name."""
    settings = isolated.model_copy(update={"mlflow_url": stack.mlflow_url, "home": tmp_path})
    write_stack_env(settings, tmp_path)
    return House(settings=settings, model=small_model(f"small_{token_hex(4)}"))


def _checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}


def _fewer(share: float) -> Callable[[pa.Table], pa.Table]:
    """Leaves a part of the rows out, so that another model is learned."""

    def change(rows: pa.Table) -> pa.Table:
        return rows.filter(pa.array(np.random.default_rng(5).random(rows.num_rows) < share))

    return change


def test_inputs_are_read_at_a_snapshot_and_default_to_the_end_of_the_newest_day(house: House) -> None:
    """The snapshot that was read is named, and later vectors do not change a training set as of an earlier time."""
    settings = house.settings
    with pytest.raises(NotTrained, match="has no vectors"):
        read_inputs(settings, house.model)
    asked = house.fill()

    inputs = read_inputs(settings, house.model)

    assert inputs.as_of == end_of_vectors(settings, house.model) == AS_OF
    assert inputs.snapshots == {f"feature_store.{house.model.name}": snapshot_id(settings, names.vectors(house.model.name))}
    assert inputs.vectors.num_rows == asked.num_rows
    assert max(inputs.labels["known_at"].to_pylist()) <= AS_OF


def test_a_run_trains_judges_and_promotes_and_a_second_run_changes_nothing(house: House) -> None:
    """Checks pass, the metadata shows the model, and the same again is the same version without a new entry in the ledger."""
    settings = house.settings
    house.fill()

    first, second = house.run(), house.run()

    assert first.success
    assert all(_checks(first).values())
    assert set(_checks(first)) == {*training_assets.LEAK_CHECKS, "better_than_baseline", "within_limits", "gate", "aliases_match"}
    shown, again = house.metadata(first, names.champion), house.metadata(second, names.champion)
    rows = house.metadata(first, names.training_set)["dagster/row_count"]
    assert (shown["verdict"], shown["version"], shown["training_rows"]) == ("promoted", 1, rows)
    assert (again["verdict"], again["version"], again["roc_auc"]) == ("live already", 1, shown["roc_auc"])
    sets = [house.metadata(result, names.training_set)["training_set_sha256"] for result in (first, second)]
    assert sets[0] == sets[1]
    assert isinstance(house.metadata(first, names.training_set)["dagster/column_lineage"], dg.TableColumnLineage)
    assert "data:image/png;base64" in str(house.metadata(first, names.candidate)["plots"])
    (entry,) = ledger.history(settings, house.model)
    assert (entry.version, entry.live_from, entry.actor) == (1, AS_OF, f"dagster run {first.run_id}")
    assert house.aliases() == {"champion": 1}


def test_the_run_in_mlflow_documents_the_candidate(house: House) -> None:
    """Parameters, figures, the learning curve, the data set with its snapshot, the contract and the plots are all there.

    The run says from when to when it learned, by which job and for whom. Few figures stand before those in groups; those of slices and
    months are a table.
    """
    settings = house.settings
    client = tracking(settings)

    run = client.get_run(house.train())

    assert (run.info.status, run.info.start_time) == ("FINISHED", ORIGIN.began_at.timestamp() * 1000)
    assert run.info.end_time is not None
    assert run.data.tags["mlflow.source.name"] == f"Dagster job {ORIGIN.job}"
    assert run.data.tags["mlflow.user"] == account_name()
    assert ORIGIN.dagster_run_id in run.data.tags["mlflow.note.content"]
    assert {
        "learning_rate",
        "as_of",
        "definition",
        "code_version",
        "local_edits",
        "max_rounds",
        "library_xgboost",
    } <= run.data.params.keys()
    first = {name for name in run.data.metrics if "/" not in name}
    assert first == {"roc_auc", "pr_auc", "log_loss", "brier", "calibration_error", "gain_over_baseline", "validation_loss"}
    assert {"baseline/roc_auc", "holdout/rows", "holdout/positives"} <= run.data.metrics.keys() - first
    assert len(client.get_metric_history(run.info.run_id, "validation_loss")) > 1
    assert run.inputs is not None
    (dataset,) = [each.dataset for each in run.inputs.dataset_inputs]
    assert json.loads(str(dataset.source))["uri"].startswith(f"s3://{settings.s3_bucket}/training_sets/{house.model.name}/")
    assert str(dataset.digest) in json.loads(str(dataset.source))["uri"]
    assert json.loads(str(dataset.profile))["snapshots"] == {"feature_store": 1}
    assert any(column["name"] == SIGNAL for column in json.loads(str(dataset.schema))["mlflow_colspec"])
    files = {file.path for folder in ("", "plots") for file in client.list_artifacts(run.info.run_id, folder)}
    assert {"model.ubj", "contract.json", "plots/calibration.png", "plots/roc.png", "plots/importance.png"} <= files
    table = json.loads(Path(client.download_artifacts(run.info.run_id, GROUPS_FILE)).read_text())
    (jfk,) = [dict(zip(table["columns"], row, strict=True)) for row in table["data"] if row[:2] == ["origin", "JFK"]]
    assert None not in {jfk[name] for name in ("rows", "positives", "roc_auc", "baseline_roc_auc")}
    assert GROUPS_FILE in run.data.tags["mlflow.loggedArtifacts"]


@OF_EACH_TASK
def test_mlflow_loads_the_champion_by_its_alias(house: House, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `mlflow.pyfunc` and `mlflow.xgboost`, with the login of the server and nothing of the platform: the scores of its scorer."""
    house = replace(house, model=replace(small_model(task=task), name=house.model.name))
    settings, client = house.settings, tracking(house.settings)
    house.judge(house.train())
    live = versions.champion(settings, house.model)
    rows = archive.read_path(settings, live.contract.training_set, live.contract.training_set_sha256)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.mlflow_url)

    model, native = (load(f"models:/{house.model.name}@champion") for load in (mlflow.pyfunc.load_model, mlflow.xgboost.load_model))
    frame = rows.select(model.metadata.get_input_schema().input_names()).to_pandas().astype("float64")

    expected = live.scorer.score(rows).tolist()
    assert model.predict(frame).astype(np.float64).tolist() == native.inplace_predict(frame).astype(np.float64).tolist() == expected
    version, registered = client.get_model_version(house.model.name, "1"), client.get_registered_model(house.model.name)
    assert f"{live.contract.rows:,} rows as of 2013-01-29 00:00 UTC" in str(version.description)
    assert version.tags["pipeline.training_set"] == live.contract.training_set_sha256
    assert registered.description == house.model.question
    (logged,) = client.search_logged_models([client.get_run(str(version.run_id)).info.experiment_id])
    assert (logged.status, logged.model_type) == ("READY", live.contract.task)
    assert house.model.gate.metric in {metric.key for metric in logged.metrics or ()}


def test_an_experiment_opens_in_the_view_for_models_of_tables(house: House) -> None:
    """Also one that was made before MLflow had several views; a person's choice stays."""
    client = tracking(house.settings)
    name = names.experiment("a_case", house.model.name)
    made = client.create_experiment(name)

    assert experiment_id(client, "a_case", house.model.name) == made
    assert client.get_experiment(made).tags[KIND_TAG] == CLASSIC
    client.set_experiment_tag(made, KIND_TAG, "genai_development")
    experiment_id(client, "a_case", house.model.name)
    assert client.get_experiment(made).tags[KIND_TAG] == "genai_development"
    assert client.get_experiment(experiment_id(client, "another_case", house.model.name)).tags[KIND_TAG] == CLASSIC


def test_training_as_of_an_earlier_time_uses_nothing_later(house: House) -> None:
    """The config of the run moves all blocks; a naive time fails the run with a sentence."""
    settings = house.settings
    house.fill()
    earlier = AS_OF - timedelta(days=7)

    result = house.run(as_of=earlier.isoformat())
    refused = house.run(as_of="2013-01-20T00:00:00")

    assert result.success
    record = archive.find(settings, house.model, as_of=earlier)
    assert archive.find(settings, house.model, digest=record.sha256) == archive.named(settings, house.model, record.name) == record
    assert max(archive.read(settings, record)["label_known_at"].to_pylist()) <= earlier
    assert ledger.live_version_at(settings, house.model, earlier) == 1
    assert ledger.live_version_at(settings, house.model, earlier - timedelta(seconds=1)) is None
    assert not refused.success
    assert "is naive" in str(refused.failure_data_for_node(house.node(names.training_set)))


def test_a_leaking_training_set_is_stored_but_never_published(house: House) -> None:
    """Labels that were known when they were asked for fail a blocking check, and no candidate is learned."""
    settings = house.settings
    asked = vectors(house.model)
    known = labels(house.model, asked)
    house.fill(known=known.set_column(2, "known_at", asked["decision_at"]))

    result = house.run()

    assert _checks(result)["labels_after_decisions"] is False
    assert not result.asset_materializations_for_node(house.node(names.candidate))
    with pytest.raises(NotTrained, match="has no training set"):
        archive.find(settings, house.model, as_of=AS_OF)


def test_a_candidate_below_the_gate_is_rejected_with_the_rule_and_the_distance(house: House) -> None:
    """The champion stays live, the ledger keeps the rules, and the check says which one was broken, and by how much."""
    settings = house.settings
    house.fill()
    house.run()
    house.fill(seed=12)
    house = replace(house, model=replace(house.model, gate=replace(house.model.gate, min_gain_over_baseline=0.5)))

    result = house.run()

    assert result.success
    assert _checks(result)["gate"] is False
    (check,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "gate"]
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "gain over baseline (roc_auc) is" in str(check.description)
    assert "broken by" in str(check.description)
    found = house.metadata(result, names.champion)
    assert (found["verdict"], found["version"], found["candidate_version"]) == ("rejected", 1, 2)
    assert str(found["made_live_by"]).startswith("promote of version 1 by dagster run ")
    assert "| gain over baseline (roc_auc) | " in str(found["made_live_by"])
    assert "| False |" not in str(found["made_live_by"])
    entries = ledger.history(settings, house.model)
    assert [(entry.action, entry.version, entry.previous_version) for entry in entries] == [("promote", 1, None), ("reject", 2, 1)]
    assert any(not rule["passed"] for rule in entries[1].rules)
    assert house.judge(str(found["candidate_run_id"])).verdict == "rejected"
    assert len(ledger.history(settings, house.model)) == 2


def compared(house: House, differing: Mapping[str, int]) -> None:
    """Has the newest comparison of served vectors with the lake be this one."""
    with online(house.settings) as connection:
        store.create(connection)
    write_finding(
        house.settings,
        ServedParity(
            model=house.model.name,
            definition=definition_hash(house.model),
            checked=200,
            pending=0,
            unclear={},
            differing=differing,
            examples=(),
        ),
    )


def test_nothing_goes_live_while_a_feature_is_served_otherwise(house: House) -> None:
    """The gate rejects a candidate by the name of the feature, and so does a promotion by hand without force, until it is equal again."""
    settings = house.settings
    first = house.judge(house.train())
    compared(house, {"origin_departures__late_rate_7d": 3})
    second = house.judge(house.train(_fewer(0.9)))
    by_hand.promote(settings, house.model, 2, actor="a test", reason="I know better", is_forced=True)
    with pytest.raises(ModelRejected, match=r"than the lake has them \(200 vectors at .*, origin_departures__late_rate_7d"):
        by_hand.promote(settings, house.model, 1, actor="a test", reason="a try")
    compared(house, {})
    by_hand.promote(settings, house.model, 1, actor="a test", reason="equal again")
    third = house.judge(house.train(_fewer(0.8)))

    assert (first.verdict, second.verdict, third.verdict) == ("promoted", "rejected", "promoted")
    assert "(no served vectors were compared)" in " ".join(rule.name for rule in first.rules)
    assert [rule.name.rpartition(", ")[2] for rule in broken(second.rules)] == ["origin_departures__late_rate_7d)"]
    assert "origin_departures__late_rate_7d" in ledger.history(settings, house.model)[1].reason


def test_a_loaded_version_scores_as_it_did_when_it_was_judged(house: House) -> None:
    """The champion is loaded natively, by its number or by the ledger, and gives the same figures and bits."""
    settings = house.settings
    with pytest.raises(NotTrained, match="has no live version"):
        versions.champion(settings, house.model)
    house.judge(house.train())

    live, one = versions.champion(settings, house.model), versions.load(settings, house.model, 1)

    rows = only(archive.read_path(settings, live.contract.training_set, live.contract.training_set_sha256), HOLDOUT)
    assert live.version == 1
    assert live.scorer.score(rows).dtype == np.float64
    assert live.scorer.score(rows).tolist() == one.scorer.score(rows).tolist()
    with pytest.raises(UnknownName, match="Known: 1"):
        versions.load(settings, house.model, 2)


def test_a_changed_model_file_is_never_loaded(house: House) -> None:
    """Its hash is not that of the contract, so neither the champion nor a promotion takes it."""
    settings = house.settings
    run_id = house.train()
    house.judge(run_id)
    objects = object_store(stack_bucket(settings)).list_objects_v2(Bucket=stack_bucket(settings).s3_bucket, Prefix="mlflow/")["Contents"]
    (path,) = [each["Key"] for each in objects if run_id in each["Key"] and each["Key"].endswith(MODEL_FILE)]
    content = bytearray(versions.load(settings, house.model, 1).artifact)
    content[-10] ^= 1
    object_store(settings).put_object(Bucket=stack_bucket(settings).s3_bucket, Key=path, Body=bytes(content))

    with pytest.raises(ArtifactCorrupt, match="model file of"):
        versions.champion(settings, house.model)


def test_a_record_of_a_training_set_that_is_junk_is_named(house: House) -> None:
    """Regression: one without a seal ended in a trace."""
    house.train()
    client, bucket, folder = object_store(house.settings), house.settings.s3_bucket, "/".join(names.training_set(house.model.name))
    (key,) = [one["Key"] for one in client.list_objects_v2(Bucket=bucket, Prefix=folder)["Contents"] if one["Key"].endswith(".json")]
    for junk in (b"", b"{}", b"[]", b"[" * 100_000):
        client.put_object(Bucket=bucket, Key=key, Body=junk)
        with pytest.raises(ObjectDamaged, match=key):
            archive.find(house.settings, house.model)


def test_a_training_set_that_was_deleted_is_named(house: House) -> None:
    """Regression: it was an error of the object store's client, which names neither the set nor what to do."""
    house.judge(house.train())
    contract = versions.champion(house.settings, house.model).contract
    bucket, _, key = contract.training_set.removeprefix("s3://").partition("/")
    object_store(house.settings).delete_object(Bucket=bucket, Key=key)
    with pytest.raises(ArtifactCorrupt, match=rf"{key}' is not there, expected {contract.training_set_sha256}\. .* Restore it, or train"):
        archive.read_path(house.settings, contract.training_set, contract.training_set_sha256)


def test_a_model_and_its_contract_that_are_swapped_together_are_never_loaded(house: House) -> None:
    """The two files of another run agree with each other, and the ledger has noted the contract of the one that was judged."""
    settings = house.settings
    judged, other = house.train(), house.train(_fewer(0.8))
    house.judge(judged)
    client, bucket = object_store(stack_bucket(settings)), stack_bucket(settings).s3_bucket
    keys = [each["Key"] for each in client.list_objects_v2(Bucket=bucket, Prefix="mlflow/")["Contents"]]
    for name in (MODEL_FILE, CONTRACT_FILE):
        (old,) = [key for key in keys if judged in key and key.endswith(name)]
        (new,) = [key for key in keys if other in key and key.endswith(name)]
        client.copy_object(Bucket=bucket, Key=old, CopySource={"Bucket": bucket, "Key": new})

    noted = ledger.history(settings, house.model)[-1].contract_sha256
    with pytest.raises(ArtifactCorrupt, match=f"contract of {house.model.name} version 1.*expected {noted}"):
        versions.champion(settings, house.model)
    with pytest.raises(ArtifactCorrupt, match="contract of"):
        by_hand.canary(settings, house.model, 1, share=0.5, actor="a test", reason="a try")


def test_a_ledger_that_is_older_than_mlflow_is_named(house: House) -> None:
    """The versions that it knows nothing of, and what MLflow says is live; as they belong together there is nothing to say."""
    settings = house.settings
    for change in (None, _fewer(0.9)):
        house.judge(house.train() if change is None else house.train(change))
    assert list(parts.problems(settings, house.model)) == []
    with closing(warehouse(settings)) as connection:
        connection.execute("create schema before; alter table ledger.promotions set schema before")
        connection.commit()
    (newer, alias) = parts.problems(settings, house.model)

    assert "MLflow has versions 1, 2, which the ledger knows nothing of" in newer
    assert "MLflow says version" in alias
    assert "and the ledger no version" in alias


def stack_bucket(settings: Settings) -> Settings:
    """The settings with the bucket of the stack, where the MLflow server keeps its files."""
    return settings.model_copy(update={"s3_bucket": "pipeline"})


def test_promotion_roll_back_and_the_aliases_that_mirror_them(house: House) -> None:
    """Three versions go live and two roll backs go back to the first; MLflow's aliases follow each step."""
    settings = house.settings
    for share in (1.0, 0.95, 0.9):
        assert house.judge(house.train(_fewer(share))).verdict == "promoted"
    assert house.aliases() == {"champion": 3, "previous": 2}

    back = by_hand.roll_back(settings, house.model, actor="a test", reason="worse", live_from=AS_OF + timedelta(days=7))
    assert house.aliases() == {"champion": 2, "previous": 1}
    by_hand.roll_back(settings, house.model, actor="a test", reason="still worse")

    assert (back.action, back.version, back.previous_version) == ("rollback", 2, 3)
    assert ledger.live_version_at(settings, house.model, AS_OF + timedelta(days=6)) != 2
    assert house.aliases() == {"champion": 1}
    with pytest.raises(PromotionRefused, match="no version was live before"):
        by_hand.roll_back(settings, house.model, actor="a test", reason="too far")
    assert by_hand.roll_back(settings, house.model, actor="a test", reason="forth", to=3).version == 3


def test_a_model_file_that_was_rolled_back_from_does_not_come_back_by_itself(house: House) -> None:
    """The same training again gives the same file; the gate rejects it, and only a person who insists makes it live."""
    settings = house.settings
    for change in (_fewer(0.9), _fewer(1.1)):
        house.judge(house.train(change))
    by_hand.roll_back(settings, house.model, actor="a test", reason="worse")

    judged = house.judge(house.train())

    assert judged.live is not None
    assert (judged.verdict, judged.version, judged.live.version) == ("rejected", 2, 1)
    with pytest.raises(ModelRejected, match="earlier roll backs"):
        by_hand.promote(settings, house.model, 2, actor="a test", reason="a try")
    assert by_hand.promote(settings, house.model, 2, actor="a test", reason="I know better", is_forced=True).version == 2
    with pytest.raises(PromotionRefused, match="live already"):
        by_hand.promote(settings, house.model, 2, actor="a test", reason="twice")


def test_a_version_is_tried_by_hand(house: House) -> None:
    """In the shadow, then as a canary that steps; the live version and MLflow's aliases stay. What the gate rejected has to be forced."""
    settings, model = house.settings, house.model
    canary = partial(by_hand.canary, settings, model, 2, actor="a test", reason="a try")
    for change in (_fewer(0.9), _fewer(1.1)):
        house.judge(house.train(change))
    by_hand.roll_back(settings, model, actor="a test", reason="worse")
    house.judge(house.train())
    with pytest.raises(ModelRejected, match="earlier roll backs"):
        canary(share=0.1)
    with pytest.raises(PromotionRefused, match="live already"):
        by_hand.shadow(settings, model, 1, actor="a test", reason="a try")

    by_hand.shadow(settings, model, 2, actor="a test", reason="a try")
    first = canary(share=None, is_forced=True)
    with pytest.raises(PromotionRefused, match="answers 1 % of entities; give it another share"):
        canary(share=None, is_forced=True)
    with pytest.raises(UserInputError, match="between 0 and 1"):
        canary(share=1.0, is_forced=True)
    second = canary(share=0.5, is_forced=True)
    ended = by_hand.stop(settings, model, actor="a test", reason="enough")

    assert [(one.action, one.share, one.previous_version) for one in (first, second, ended)] == [
        ("canary", model.canary.steps[0], 1), ("canary", 0.5, 1), ("return", None, 1),
    ]  # fmt: skip
    assert ledger.live_version(settings, model) == 1
    assert house.aliases() == {"champion": 1}
    with pytest.raises(PromotionRefused, match="nothing to stop"):
        by_hand.stop(settings, model, actor="a test", reason="enough")


def test_aliases_follow_what_the_prediction_service_decides(house: House) -> None:
    """A canary that went live without MLflow is its champion after the sensor's next tick, and is not mirrored again by the one after."""
    settings, model = house.settings, house.model
    for change in (_fewer(0.9), _fewer(1.1)):
        house.judge(house.train(change))
    by_hand.roll_back(settings, model, actor="a test", reason="worse")
    by_hand.canary(settings, model, 2, share=0.5, actor="a test", reason="a try")
    tried = ledger.trial(ledger.history(settings, model))
    assert tried is not None
    decision = ledger.Decision(version=2, actor="the service", reason="well", live_from=tried.live_from)
    with warehouse(settings) as connection:
        trials.finish(connection, model, decision, expected=tried)
    before, sensor = house.aliases(), aliases_mirrored([model])

    with dg.DagsterInstance.ephemeral() as instance:
        result = house.tick(sensor, instance)
        after = house.aliases()
        tracking(settings).set_registered_model_alias(model.name, "champion", "1")
        house.tick(sensor, instance, result.cursor)

    assert (before["champion"], after["champion"], house.aliases()["champion"]) == (1, 2, 1)


def test_an_alias_changed_in_mlflow_is_shown_and_undone_or_adopted(house: House) -> None:
    """The champion's check fails with both versions and the commands, once, until one of them was used; the ledger says who adopted.

    A cursor that was lost, or is that of an earlier version, undoes nothing.
    """
    settings, model = house.settings, house.model
    for change in (_fewer(0.9), _fewer(1.1)):
        house.judge(house.train(change))
    client = tracking(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        tick = partial(house.tick, aliases_mirrored([model]), instance)
        good = tick()
        client.set_registered_model_alias(model.name, "champion", "1")
        bad = tick(good.cursor)
        same = [tick(cursor) for cursor in (bad.cursor, None, json.dumps({model.name: 1}))]
        shown, undone = aliases.alias_drift(settings, model), aliases.undo(settings, model)
        after_undo = tick(bad.cursor)
    client.set_registered_model_alias(model.name, "champion", "1")
    entry = aliases.adopt(settings, model, actor="ann", reason="better on weekends")

    (failed,), (passed,) = bad.asset_events, after_undo.asset_events
    assert isinstance(failed, dg.AssetCheckEvaluation)
    assert isinstance(passed, dg.AssetCheckEvaluation)
    assert (failed.passed, passed.passed, failed.check_name) == (False, True, "aliases_match")
    assert "champion is version 1 in MLflow and version 2 by the ledger" in str(failed.description)
    assert f"pipeline models alias-undo {model.name}" in str(failed.description)
    assert not good.asset_events
    assert not any(one.asset_events for one in same)
    assert shown == undone
    assert (entry.action, entry.version, entry.previous_version, entry.actor) == ("promote", 1, 2, "ann")
    assert house.aliases() == {"champion": 1, "previous": 2}
    with pytest.raises(PromotionRefused, match="is live already"):
        aliases.adopt(settings, model, actor="ann", reason="again")
    client.delete_registered_model_alias(model.name, "champion")
    with pytest.raises(PromotionRefused, match="alias-undo"):
        aliases.adopt(settings, model, actor="ann", reason="again")


def test_a_tick_ends_soon_where_mlflow_is_away(house: House, tmp_path: Path) -> None:
    """It is skipped with a sentence, and the cursor stays, so what was decided meanwhile is mirrored when MLflow is back."""
    write_stack_env(house.settings.model_copy(update={"mlflow_url": "http://127.0.0.1:9"}), tmp_path)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance, resources={"platform": house.platform}) as context,
    ):
        skipped = aliases_mirrored([house.model])(context)

    assert isinstance(skipped, dg.SkipReason)
    assert "MLflow at http://127.0.0.1:9" in str(skipped.skip_message)


def test_a_run_that_promotes_nothing_leaves_an_alias_that_was_changed_in_mlflow(house: House) -> None:
    """Regression: it set the aliases by the ledger, then looked whether they are, so its check could not fail.

    A run that promotes sets them, and its check says what was before.
    """
    model, client = house.model, tracking(house.settings)
    house.judge(house.train(_fewer(0.9)))
    newest = house.train(_fewer(1.1))
    house.judge(newest)
    client.set_registered_model_alias(model.name, "champion", "1")

    again = house.run(steps=(names.champion,), config={names.champion: {"candidate_run_id": newest}})
    kept = house.aliases()
    better = house.train(_fewer(0.95))
    promoted = house.run(steps=(names.champion,), config={names.champion: {"candidate_run_id": better}})

    assert len(ledger.history(house.settings, model)) == 3
    assert (_checks(again)["aliases_match"], kept) == (False, {"champion": 1, "previous": 1})
    assert house.metadata(promoted, names.champion)["verdict"] == "promoted"
    assert (_checks(promoted)["aliases_match"], house.aliases()) == (True, {"champion": 3, "previous": 2})
    said = [one.description or "" for one in promoted.get_asset_check_evaluations() if one.check_name == "aliases_match"]
    assert "champion is version 1 in MLflow and version 2 by the ledger" in said[0]


def test_a_model_that_was_never_registered_has_no_alias_drift(house: House) -> None:
    """Nothing is live, nothing has an alias, and undoing does nothing."""
    assert aliases.undo(house.settings, house.model) == ()


def test_a_crash_between_ledger_and_aliases_is_healed_by_the_next_call(house: House) -> None:
    """The decision is in the ledger and MLflow does not know; judging again decides nothing and sets the alias."""
    settings = house.settings
    run_id = house.train()
    version = versions.register(settings, house.model, run_id, versions.load_run(settings, run_id).contract)
    decision = ledger.Decision(version=version, actor="a test", reason="killed after this", live_from=AS_OF, run_id=run_id)
    ledger.promote(settings, house.model, decision, expected_version=None)
    assert house.aliases() == {}

    judged = house.judge(run_id)

    assert judged.live is not None
    assert judged.live.version == version
    assert len(ledger.history(settings, house.model)) == 1
    assert house.aliases() == {"champion": version}


def test_only_a_finished_candidate_of_the_model_is_judged(house: House) -> None:
    """A training that was killed, a candidate of another model, and a run that never was are refused, and nothing is decided."""
    other = replace(house, model=replace(house.model, name=f"{house.model.name}_b"))
    unfinished, foreign = house.train(), other.train()
    tracking(house.settings).update_run(unfinished, status="RUNNING")

    for run_id in (unfinished, foreign):
        with pytest.raises(UserInputError, match="is no finished candidate of model"):
            house.judge(run_id)
    with pytest.raises(UserInputError, match="There is no candidate run 'nothing'"):
        house.judge("nothing")

    assert ledger.history(house.settings, house.model) == ()


def test_a_search_or_a_reproduction_beside_a_training_is_never_promoted_by_accident(house: House) -> None:
    """Whatever is trained before or in between, a run judges its own candidate; a step alone asks which one is meant."""
    house.fill()
    old = house.run(as_of=(AS_OF - timedelta(days=3)).isoformat(), steps=TRAINING)
    own = house.run()
    search = house.run(steps=TRAINING)
    alone = house.run(steps=(names.champion,))
    found = {result.run_id: house.metadata(result, names.candidate) for result in (old, own, search)}

    judged = house.metadata(own, names.champion)
    assert judged["candidate_run_id"] == found[own.run_id]["mlflow_run_id"]
    assert not alone.success
    assert "give `candidate_run_id`" in str(alone.failure_data_for_node(house.node(names.champion)))
    assert [entry.run_id for entry in ledger.history(house.settings, house.model)] == [judged["candidate_run_id"]]


def test_an_older_training_does_not_take_the_place_of_a_later_one(house: House) -> None:
    """A reproduction that is judged by name is rejected for its time, however good it is."""
    house.fill()
    house.run()
    old = house.run(as_of=(AS_OF - timedelta(days=3)).isoformat(), steps=TRAINING)
    run_id = str(house.metadata(old, names.candidate)["mlflow_run_id"])

    result = house.run(steps=(names.champion,), config={names.champion: {"candidate_run_id": run_id}})

    judged = house.metadata(result, names.champion)
    assert (judged["candidate_run_id"], judged["verdict"], judged["version"]) == (run_id, "rejected", 1)
    (check,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "gate"]
    assert "days that the champion was trained later is 3" in str(check.description)


def test_a_candidate_alone_learns_from_the_set_that_is_named(house: House) -> None:
    """By its time or by its hash; where a time has two sets, both are listed, and with neither the run says what to give."""
    house.fill()
    first = str(house.metadata(house.run(steps=(names.training_set,)), names.training_set)["training_set_sha256"])
    by_time = house.run(steps=(names.candidate,), config={names.candidate: {"as_of": AS_OF.isoformat()}})
    house.fill(seed=12)
    house.run(steps=(names.training_set,))

    by_hash = house.run(steps=(names.candidate,), config={names.candidate: {"training_set": first}})
    unclear = house.run(steps=(names.candidate,), config={names.candidate: {"as_of": AS_OF.isoformat()}})
    alone = house.run(steps=(names.candidate,))
    unknown = house.run(steps=(names.candidate,), config={names.candidate: {"training_set": "0" * 64}})

    figures = [house.metadata(result, names.candidate)["model_sha256"] for result in (by_time, by_hash)]
    assert figures[0] == figures[1]
    reasons = [str(result.failure_data_for_node(house.node(names.candidate))) for result in (unclear, alone, unknown)]
    assert "has 2 training sets as of" in reasons[0]
    assert first in reasons[0]
    assert "give `training_set` or `as_of`" in reasons[1]
    assert "has no training set with the SHA-256 0000" in reasons[2]


@pytest.mark.parametrize("task", [MULTICLASS, REGRESSION], ids=lambda task: type(task).__name__)
def test_a_model_of_another_kind_goes_live_too(house: House, task: Task) -> None:
    """Several classes or a number, from vectors and labels to a version that scores and a check that names its own metric."""
    house = replace(house, model=replace(small_model(task=task), name=house.model.name))
    house.fill()

    result = house.run()

    assert result.success
    assert all(_checks(result).values())
    judged, metric = house.metadata(result, names.champion), house.model.gate.metric
    assert (judged["verdict"], judged["version"]) == ("promoted", 1)
    assert {metric, f"baseline_{metric}"} <= judged.keys()
    live = versions.champion(house.settings, house.model)
    rows = only(archive.read_path(house.settings, live.contract.training_set, live.contract.training_set_sha256), HOLDOUT)
    assert len(live.scorer.score(rows)) == rows.num_rows
    (listed,) = versions.registered(house.settings, house.model)
    assert listed.metrics[metric] == judged[metric]
    assert listed.metrics["rows"] == rows.num_rows


def test_labels_that_mature_late_move_the_blocks(house: House) -> None:
    """With a horizon of three days the inputs, the blocks and the checks end three days before as_of."""
    house = replace(house, model=replace(house.model, label=replace(house.model.label, horizon=timedelta(days=3))))
    house.fill()

    result = house.run(as_of=AS_OF.isoformat(), steps=(names.training_set,))

    assert result.success
    assert all(_checks(result).values())
    record = archive.find(house.settings, house.model, as_of=AS_OF)
    assert record.blocks[-1].end == AS_OF - timedelta(days=3)
    assert max(archive.read(house.settings, record)["decision_at"].to_pylist()) < AS_OF - timedelta(days=3)


def test_a_label_of_numeric_is_read_as_a_number(house: House) -> None:
    """Postgres' exact numbers come as text from the driver, and are what a regression learns from."""
    house = replace(house, model=replace(small_model(task=REGRESSION), name=house.model.name))
    asked = house.fill()
    table, column = names.cleaned(house.model.label.table), house.model.label.column
    with warehouse(house.settings) as connection:
        alter = sql.SQL("alter table {} alter column {} type numeric(12, 6)")
        connection.execute(alter.format(sql.Identifier(*table), sql.Identifier(column)))

    found = read_inputs(house.settings, house.model, AS_OF)

    assert found.labels.schema.field(column).type == pa.float64()
    assert 0 < build_training_set(house.model, asked, found.labels, AS_OF).num_rows <= found.labels.num_rows


def test_the_commands_show_promote_and_roll_back(house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`models list`, `history`, `promote` and `rollback` of the declared model, as tables and as JSON; an unknown version is bad input.

    `models training-set` writes what a version was learned from, asked for by the version or by the hash of its bytes.
    """
    settings = house.settings
    declared = flights.models[0].name
    house = replace(house, model=replace(house.model, name=declared))
    for share in (0.9, 1.0):
        house.judge(house.train(_fewer(share)))
    monkeypatch.setenv(f"{PREFIX}HOME", str(settings.home))
    # Which of the project's models have versions in the registry by now, other tests decide.
    monkeypatch.setattr(commands, "_declared", lambda: (*flights.models, replace(house.model, name="never_trained")))
    app = typer.Typer()
    commands.register(app)
    run = CliRunner().invoke

    listed = json.loads(run(app, ["models", "list", "--json"]).output)[declared][-2:]
    old, new = (each["version"] for each in listed)
    back = run(app, ["models", "rollback", declared, "--reason", "worse", "--live-from", "2013-02-01T00:00:00+00:00"])
    forth = run(app, ["models", "promote", declared, str(new), "--reason", "better after all", "--live-from", "2013-02-02T00:00:00+00:00"])
    unknown = run(app, ["models", "promote", declared, "999", "--reason", "a typo"])
    matched = run(app, ["models", "alias-drift", declared])
    tracking(settings).set_registered_model_alias(declared, "champion", str(old))
    apart = run(app, ["models", "alias-drift", declared])
    undone = run(app, ["models", "alias-undo", declared])
    history = json.loads(run(app, ["models", "history", declared, "--json"]).output)
    learned_from = versions.load(settings, house.model, new).contract.training_set_sha256
    paths = [tmp_path / "by_version.parquet", tmp_path / "by_id.parquet"]
    asked = [["--version", str(new)], ["--id", learned_from]]
    written = [run(app, ["models", "training-set", declared, *of, "--out", str(path)]) for of, path in zip(asked, paths, strict=True)]
    both = run(app, ["models", "training-set", declared, *asked[0], *asked[1], "--out", str(paths[0])])
    tables = run(app, ["models", "list"]).output + run(app, ["models", "history", declared]).output

    assert [each["state"] for each in listed] == ["previous", "live"]
    assert f"version {old} is live" in back.output
    assert f"version {new} is live" in forth.output
    assert isinstance(unknown.exception, UserInputError)
    assert [matched.exit_code, apart.exit_code, undone.exit_code] == [0, 1, 0]
    assert f"champion is version {old} in MLflow and version {new} by the ledger" in apart.output
    assert f"undone: champion is version {old} in MLflow" in undone.output
    assert [(each["action"], each["version"]) for each in history] == [
        ("promote", old),
        ("promote", new),
        ("rollback", old),
        ("promote", new),
    ]
    rows = archive.read(settings, archive.find(settings, house.model, digest=learned_from))
    assert [(result.exit_code, pq.read_table(path).equals(rows)) for result, path in zip(written, paths, strict=True)] == [(0, True)] * 2
    assert isinstance(both.exception, UserInputError)
    assert listed[-1]["metrics"]["roc_auc"] > listed[-1]["metrics"]["baseline_roc_auc"]
    assert "rollback" in tables
    assert "roc_auc" in tables
    assert "No version yet. Run the job train_never_trained first." in tables
    assert "better" in tables
