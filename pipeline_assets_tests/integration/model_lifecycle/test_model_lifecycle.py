"""From vectors and labels to a live version and back, on real services: training set, candidate, gate, ledger, aliases, roll back."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from secrets import token_hex

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
import typer
from psycopg import sql
from typer.testing import CliRunner

from pipeline_assets.core import names
from pipeline_assets.core.connections import arrow_warehouse, object_store, tracking, warehouse
from pipeline_assets.core.errors import ArtifactCorrupt, ModelRejected, NotTrained, PromotionRefused, UnknownName, UserInputError
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import PREFIX, STACK_ENV, Settings, load_settings
from pipeline_assets.model_lifecycle.registry import assets as registry_assets
from pipeline_assets.model_lifecycle.registry import by_hand, commands, ledger, versions
from pipeline_assets.model_lifecycle.registry.judgement import Judgement, judge_newest
from pipeline_assets.model_lifecycle.training import archive
from pipeline_assets.model_lifecycle.training import assets as training_assets
from pipeline_assets.model_lifecycle.training.candidate import train_candidate
from pipeline_assets.model_lifecycle.training.dataset import HOLDOUT, build_training_set, only
from pipeline_assets.model_lifecycle.training.inputs import end_of_vectors, read_inputs
from pipeline_assets.model_lifecycle.training.track import MODEL_FILE, log_candidate
from pipeline_assets.processing.lake.tables import replace_days, snapshot_id
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.use_case import UseCase
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.model_rows import AS_OF, START, labels, small_model, vectors

Platformed = tuple[Settings, UseCase, Platform]


@pytest.fixture
def house(isolated: Settings, stack: Settings, tmp_path: Path) -> Platformed:
    """Services with an empty warehouse, lake and bucket, a model of its own name, and the resource that an asset gets."""
    settings = isolated.model_copy(update={"mlflow_url": stack.mlflow_url, "home": tmp_path})
    model = small_model(f"small_{token_hex(4)}")
    (tmp_path / STACK_ENV).write_text("\n".join(_environment(settings)))
    case = replace(flights, name=f"case_{token_hex(4)}", model=model, monitor=replace(flights.monitor, model=model))
    return settings, case, Platform(home=str(tmp_path))


def _environment(settings: Settings) -> Iterator[str]:
    """The lines of `stack.env` that give these settings."""
    for name, value in settings.model_dump().items():
        if hasattr(value, "get_secret_value"):
            yield f"{PREFIX}{name.upper()}={value.get_secret_value()}"
        elif isinstance(value, str):
            yield f"{PREFIX}{name.upper()}={value}"
    yield from (f"{PREFIX}DATABASES__{name.upper()}={dsn.get_secret_value()}" for name, dsn in settings.databases.items())
    yield from (f"{PREFIX}REPLICATION__{name.upper()}={dsn.get_secret_value()}" for name, dsn in settings.replication.items())
    for name, service in settings.services.items():
        yield f"{PREFIX}SERVICES__{name.upper()}__URL={service.url}"
        yield f"{PREFIX}SERVICES__{name.upper()}__API_KEY={service.api_key.get_secret_value()}"


def _fill(settings: Settings, model: Model, asked: pa.Table, known: pa.Table) -> None:
    """Puts vectors into the lake and labels into the warehouse, in the place of those before."""
    replace_days(settings, names.vectors(model.name), asked, "decision_at", START.date(), (AS_OF - timedelta(days=1)).date())
    schema, table = names.cleaned(model.label.table)
    with warehouse(settings) as connection:
        connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
    with arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest(table, known, mode="replace", db_schema_name=schema)
        connection.commit()


def _materialize(house: Platformed, *, as_of: str | None = None) -> dg.ExecuteInProcessResult:
    """Training set, candidate and champion in one run, as the training job does."""
    _, case, platform = house
    job = dg.define_asset_job("train", executor_def=dg.in_process_executor)
    wiring = dg.Definitions(resources={"platform": platform}, jobs=[job])
    definitions = dg.Definitions.merge(training_assets.defs(case), registry_assets.defs(case), wiring)
    op = "__".join(names.training_set(case.model.name))
    config = {"ops": {op: {"config": {"as_of": as_of}}}} if as_of is not None else None
    return definitions.resolve_job_def("train").execute_in_process(run_config=config, raise_on_error=False)


def _metadata(result: dg.ExecuteInProcessResult, asset: names.AssetName) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node("__".join(asset))
    return {name: value.value for name, value in event.metadata.items()}


def _checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}


def _train(house: Platformed, change: Callable[[pa.Table], pa.Table] = lambda rows: rows) -> str:
    """A finished candidate of labels that follow the signal, after a change to the training set's rows; returns its run."""
    settings, case, _ = house
    asked = vectors(case.model)
    rows = change(build_training_set(case.model, asked, labels(case.model, asked), AS_OF))
    record = archive.store(settings, case.model, rows, AS_OF, {"feature_store": 1})
    candidate = train_candidate(case.model, record, archive.read(settings, record), lambda _: None)
    return log_candidate(settings, case.name, candidate, record, dagster_run_id="a test")


def _fewer(share: float) -> Callable[[pa.Table], pa.Table]:
    """Leaves a part of the rows out, so that another model is learned."""

    def change(rows: pa.Table) -> pa.Table:
        return rows.filter(pa.array(np.random.default_rng(5).random(rows.num_rows) < share))

    return change


def _judge(house: Platformed) -> Judgement:
    settings, case, _ = house
    return judge_newest(settings, case.name, case.model, actor="a test")


def _aliases(settings: Settings, model: Model) -> dict[str, int]:
    found = tracking(settings).get_registered_model(model.name).aliases
    return {alias: int(version) for alias, version in found.items()}


def test_inputs_are_read_at_a_snapshot_and_default_to_the_end_of_the_newest_day(house: Platformed) -> None:
    """The snapshot that was read is named, and later vectors do not change a training set as of an earlier time."""
    settings, case, _ = house
    with pytest.raises(NotTrained, match="has no vectors"):
        read_inputs(settings, case.model)
    asked = vectors(case.model)
    _fill(settings, case.model, asked, labels(case.model, asked))

    inputs = read_inputs(settings, case.model)

    assert inputs.as_of == end_of_vectors(settings, case.model) == AS_OF
    assert inputs.snapshots == {f"feature_store.{case.model.name}": snapshot_id(settings, names.vectors(case.model.name))}
    assert inputs.vectors.num_rows == asked.num_rows
    assert max(inputs.labels["known_at"].to_pylist()) <= AS_OF


def test_a_run_trains_judges_and_promotes_and_a_second_run_changes_nothing(house: Platformed) -> None:
    """Checks pass, the metadata tells the model, and the same again is the same version without a new entry in the ledger."""
    settings, case, _ = house
    asked = vectors(case.model)
    _fill(settings, case.model, asked, labels(case.model, asked))

    first, second = _materialize(house), _materialize(house)

    assert first.success
    assert all(_checks(first).values())
    assert set(_checks(first)) == {*training_assets.LEAK_CHECKS, "better_than_baseline", "calibrated", "gate"}
    told, again = _metadata(first, names.champion(case.model.name)), _metadata(second, names.champion(case.model.name))
    rows = _metadata(first, names.training_set(case.model.name))["dagster/row_count"]
    assert (told["verdict"], told["version"], told["training_rows"]) == ("promoted", 1, rows)
    assert (again["verdict"], again["version"], again["roc_auc"]) == ("live already", 1, told["roc_auc"])
    assert (
        _metadata(second, names.training_set(case.model.name))["sha256"] == _metadata(first, names.training_set(case.model.name))["sha256"]
    )
    assert "data:image/png;base64" in str(_metadata(first, names.candidate(case.model.name))["plots"])
    (entry,) = ledger.history(settings, case.model)
    assert (entry.version, entry.live_from, entry.actor) == (1, AS_OF, f"dagster run {first.run_id}")
    assert _aliases(settings, case.model) == {"champion": 1}


def test_the_run_in_mlflow_documents_the_candidate(house: Platformed) -> None:
    """Parameters, figures by slice, the learning curve, the data set with its snapshot, the contract and the plots are all there."""
    settings, case, _ = house
    client = tracking(settings)

    run = client.get_run(_train(house))

    assert run.info.status == "FINISHED"
    assert {"learning_rate", "as_of", "definition", "code_version"} <= run.data.params.keys()
    assert {"roc_auc", "pr_auc", "log_loss", "brier", "calibration_error", "slice/origin/JFK/roc_auc"} <= run.data.metrics.keys()
    assert len(client.get_metric_history(run.info.run_id, "validation_loss")) > 1
    assert run.inputs is not None
    (dataset,) = [each.dataset for each in run.inputs.dataset_inputs]
    assert json.loads(str(dataset.source))["uri"].startswith(f"s3://{settings.s3_bucket}/training_sets/{case.model.name}/")
    assert json.loads(str(dataset.profile))["snapshots"] == {"feature_store": 1}
    files = {file.path for file in client.list_artifacts(run.info.run_id)} | {
        file.path for file in client.list_artifacts(run.info.run_id, "plots")
    }
    assert {"model.ubj", "contract.json", "plots/calibration.png", "plots/roc.png", "plots/importance.png"} <= files


def test_training_as_of_an_earlier_time_uses_nothing_later(house: Platformed) -> None:
    """The config of the run moves all blocks; a naive time fails the run with a sentence."""
    settings, case, _ = house
    asked = vectors(case.model)
    _fill(settings, case.model, asked, labels(case.model, asked))
    earlier = AS_OF - timedelta(days=7)

    result = _materialize(house, as_of=earlier.isoformat())
    refused = _materialize(house, as_of="2013-01-20T00:00:00")

    assert result.success
    record = archive.find(settings, case.model, earlier)
    assert archive.find(settings, case.model) == record
    assert max(archive.read(settings, record)["label_known_at"].to_pylist()) <= earlier
    assert ledger.live_version_at(settings, case.model, earlier) == 1
    assert ledger.live_version_at(settings, case.model, earlier - timedelta(seconds=1)) is None
    assert not refused.success
    assert "is naive" in str(refused.failure_data_for_node("__".join(names.training_set(case.model.name))))


def test_a_leaking_training_set_is_stored_but_never_published(house: Platformed) -> None:
    """Labels that were known when they were asked for fail a blocking check, and no candidate is learned."""
    settings, case, _ = house
    asked = vectors(case.model)
    known = labels(case.model, asked)
    early = known.set_column(2, "known_at", asked["decision_at"])
    _fill(settings, case.model, asked, early)

    result = _materialize(house)

    assert _checks(result)["labels_after_decisions"] is False
    assert not result.asset_materializations_for_node("__".join(names.candidate(case.model.name)))
    with pytest.raises(NotTrained, match="has no training set"):
        archive.find(settings, case.model)


def test_a_candidate_below_the_gate_is_rejected_with_the_rule_and_the_distance(house: Platformed) -> None:
    """The champion stays live, the ledger keeps the rules, and the check says which one was broken, and by how much."""
    settings, case, platform = house
    asked = vectors(case.model)
    _fill(settings, case.model, asked, labels(case.model, asked))
    _materialize(house)
    _fill(settings, case.model, asked, labels(case.model, asked, seed=12))
    strict = replace(case.model, gate=replace(case.model.gate, min_gain_over_baseline=0.5))
    house = (settings, replace(case, model=strict), platform)

    result = _materialize(house)

    assert result.success
    assert _checks(result)["gate"] is False
    (check,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "gate"]
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "gain over baseline (ROC AUC) is" in str(check.description)
    assert "broken by" in str(check.description)
    told = _metadata(result, names.champion(case.model.name))
    assert (told["verdict"], told["version"], told["candidate_version"]) == ("rejected", 1, 2)
    entries = ledger.history(settings, case.model)
    assert [(entry.action, entry.version, entry.previous_version) for entry in entries] == [("promote", 1, None), ("reject", 2, 1)]
    assert any(not rule["passed"] for rule in entries[1].rules)
    assert _judge(house).verdict == "rejected"
    assert len(ledger.history(settings, case.model)) == 2


def test_a_loaded_version_scores_as_it_did_when_it_was_judged(house: Platformed) -> None:
    """The champion is loaded natively, by its number or by the ledger, and gives the same figures and bits."""
    settings, case, _ = house
    with pytest.raises(NotTrained, match="has no live version"):
        versions.champion(settings, case.model)
    _train(house)
    _judge(house)

    live, one = versions.champion(settings, case.model), versions.load(settings, case.model, 1)

    rows = only(archive.read_path(settings, live.contract.training_set, live.contract.training_set_sha256), HOLDOUT)
    assert live.version == 1
    assert live.score(rows).dtype == np.float64
    assert live.score(rows).tolist() == one.score(rows).tolist()
    with pytest.raises(UnknownName, match="Known: 1"):
        versions.load(settings, case.model, 2)


def test_a_changed_model_file_is_never_loaded(house: Platformed) -> None:
    """Its hash is not that of the contract, so neither the champion nor a promotion takes it."""
    settings, case, _ = house
    run_id = _train(house)
    _judge(house)
    objects = object_store(stack_bucket(settings)).list_objects_v2(Bucket=stack_bucket(settings).s3_bucket, Prefix="mlflow/")["Contents"]
    (path,) = [each["Key"] for each in objects if run_id in each["Key"] and each["Key"].endswith(MODEL_FILE)]
    content = bytearray(versions.artifact(settings, case.model, 1))
    content[-10] ^= 1
    object_store(settings).put_object(Bucket=stack_bucket(settings).s3_bucket, Key=path, Body=bytes(content))

    with pytest.raises(ArtifactCorrupt, match=MODEL_FILE):
        versions.champion(settings, case.model)


def stack_bucket(settings: Settings) -> Settings:
    """The settings with the bucket of the stack, where the MLflow server keeps its files."""
    return settings.model_copy(update={"s3_bucket": "pipeline"})


def test_promotion_roll_back_and_the_aliases_that_mirror_them(house: Platformed) -> None:
    """Three versions go live and two roll backs go back to the first; MLflow's aliases follow each step."""
    settings, case, _ = house
    for share in (1.0, 0.95, 0.9):
        _train(house, _fewer(share))
        assert _judge(house).verdict == "promoted"
    assert _aliases(settings, case.model) == {"champion": 3, "previous": 2}

    back = by_hand.roll_back(settings, case.model, actor="a test", reason="worse", live_from=AS_OF + timedelta(days=7))
    assert _aliases(settings, case.model) == {"champion": 2, "previous": 1}
    by_hand.roll_back(settings, case.model, actor="a test", reason="still worse")

    assert (back.action, back.version, back.previous_version) == ("rollback", 2, 3)
    assert ledger.live_version_at(settings, case.model, AS_OF + timedelta(days=6)) != 2
    assert _aliases(settings, case.model) == {"champion": 1}
    with pytest.raises(PromotionRefused, match="no version was live before"):
        by_hand.roll_back(settings, case.model, actor="a test", reason="too far")
    assert by_hand.roll_back(settings, case.model, actor="a test", reason="forth", to=3).version == 3


def test_a_model_file_that_was_rolled_back_from_does_not_come_back_by_itself(house: Platformed) -> None:
    """The same training again gives the same file; the gate rejects it, and only a person who insists makes it live."""
    settings, case, _ = house
    _train(house, _fewer(0.9))
    _judge(house)
    _train(house)
    _judge(house)
    by_hand.roll_back(settings, case.model, actor="a test", reason="worse")
    _train(house)

    judged = _judge(house)

    assert (judged.verdict, judged.version, judged.live_version) == ("rejected", 2, 1)
    with pytest.raises(ModelRejected, match="earlier roll backs"):
        by_hand.promote(settings, case.model, 2, actor="a test", reason="a try")
    assert by_hand.promote(settings, case.model, 2, actor="a test", reason="I know better", is_forced=True).version == 2
    with pytest.raises(PromotionRefused, match="live already"):
        by_hand.promote(settings, case.model, 2, actor="a test", reason="twice")


def test_a_crash_between_ledger_and_aliases_is_healed_by_the_next_call(house: Platformed) -> None:
    """The decision is in the ledger and MLflow does not know; judging again decides nothing and sets the alias."""
    settings, case, _ = house
    run_id = _train(house)
    version = versions.register(settings, case.model, run_id, versions.load_run(settings, run_id).contract)
    decision = ledger.Decision(version=version, actor="a test", reason="killed after this", live_from=AS_OF, run_id=run_id)
    ledger.promote(settings, case.model, decision, expected_version=None)
    assert _aliases(settings, case.model) == {}

    judged = _judge(house)

    assert judged.live_version == version
    assert len(ledger.history(settings, case.model)) == 1
    assert _aliases(settings, case.model) == {"champion": version}


def test_an_unfinished_run_is_no_candidate(house: Platformed) -> None:
    """A training that was killed leaves a run that is never judged."""
    settings, case, _ = house
    finished = _train(house)
    unfinished = _train(house, _fewer(0.9))
    tracking(settings).update_run(unfinished, status="RUNNING")

    assert versions.newest_candidate(settings, case.name, case.model) == finished
    with pytest.raises(NotTrained, match="no finished candidate"):
        judge_newest(settings, "no_such_case", case.model, actor="a test")


def test_the_commands_show_promote_and_roll_back(house: Platformed, monkeypatch: pytest.MonkeyPatch) -> None:
    """`models list`, `history`, `promote` and `rollback` of the declared model, as tables and as JSON; an unknown version is bad input."""
    settings, case, _ = house
    declared = replace(case.model, name=flights.model.name)
    case = replace(case, model=declared)
    named = (settings, case, Platform(home=str(settings.home)))
    for share in (0.9, 1.0):
        _train(named, _fewer(share))
        _judge(named)
    monkeypatch.setenv(f"{PREFIX}HOME", str(settings.home))
    load_settings.cache_clear()
    app = typer.Typer()
    commands.register(app)
    run = CliRunner().invoke

    listed = json.loads(run(app, ["models", "list", "--json"]).output)[declared.name][-2:]
    old, new = (each["version"] for each in listed)
    back = run(app, ["models", "rollback", "--reason", "worse", "--live-from", "2013-02-01T00:00:00+00:00"])
    forth = run(
        app, ["models", "promote", declared.name, str(new), "--reason", "better after all", "--live-from", "2013-02-02T00:00:00+00:00"]
    )
    unknown = run(app, ["models", "promote", declared.name, "999", "--reason", "a typo"])
    history = json.loads(run(app, ["models", "history", "--json"]).output)
    tables = run(app, ["models", "list"]).output + run(app, ["models", "history"]).output
    load_settings.cache_clear()

    assert [each["state"] for each in listed] == ["previous", "live"]
    assert f"version {old} is live" in back.output
    assert f"version {new} is live" in forth.output
    assert isinstance(unknown.exception, UserInputError)
    assert [(each["action"], each["version"]) for each in history] == [
        ("promote", old),
        ("promote", new),
        ("rollback", old),
        ("promote", new),
    ]
    assert "rollback" in tables
    assert "better" in tables
