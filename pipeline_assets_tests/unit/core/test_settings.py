"""Settings by part: what each process needs, and how a value that cannot be used is reported."""

from pathlib import Path

import pytest

from pipeline_assets.core.connections import catalog, object_store, online, tracking, warehouse
from pipeline_assets.core.errors import SettingsMalformed, SettingsMissing
from pipeline_assets.core.settings import (
    STACK_ENV,
    DagsterSettings,
    LakeSettings,
    ObjectStoreSettings,
    OnlineSettings,
    Part,
    Settings,
    SourceSettings,
    StreamSettings,
    TrackingSettings,
    WarehouseSettings,
    read_code_settings,
    read_part,
    read_settings,
    read_stack_settings,
)

SECRET = "do-not-show-this"  # noqa: S105 - a value to look for in errors
STORES = {
    "PIPELINE_WAREHOUSE_DSN": "postgresql://warehouse:secret@db.example.com:5432/warehouse",
    "PIPELINE_S3_ENDPOINT": "https://s3.example.com",
    "PIPELINE_S3_REGION": "eu-central-1",
    "PIPELINE_S3_BUCKET": "ours",
    "PIPELINE_S3_ACCESS_KEY": "access",
    "PIPELINE_S3_SECRET_KEY": "secret",
}
URL = "a URL with scheme, host and, if need be, port, such as http://127.0.0.1:9000"
NOT_SHOWN = "(the value is not shown)"
DSN = "postgresql://<user>:<password>@<host>:<port>/<database>, or another connection string of libpq"


class Predictions(WarehouseSettings, ObjectStoreSettings):
    """What a service needs that predicts: the ledger and the packages of models."""


def test_a_process_reads_only_the_part_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that predicts starts without Dagster, Kafka, MLflow or sources, and connects with its own part."""
    for name, value in STORES.items():
        monkeypatch.setenv(name, value)
    found = read_part(Predictions, tmp_path)

    assert (found.s3_bucket, found.home) == ("ours", tmp_path)
    assert object_store(found).meta.endpoint_url == "https://s3.example.com"


def test_a_missing_value_is_reported_for_the_part_alone(tmp_path: Path) -> None:
    """All that the part misses is named, and nothing of other parts."""
    with pytest.raises(SettingsMissing) as failure:
        read_part(Predictions, tmp_path)

    assert set(failure.value.names) == set(STORES)


def test_the_parts_together_are_all_settings() -> None:
    """What the rooms read has every field of every part, and none of its own."""
    stores = (WarehouseSettings, OnlineSettings, LakeSettings)
    parts: tuple[type[Part], ...] = (*stores, SourceSettings, StreamSettings, TrackingSettings, DagsterSettings)

    assert set(Settings.model_fields) == {name for part in parts for name in part.model_fields}


@pytest.mark.parametrize(
    ("connection", "part"),
    [
        (warehouse, WarehouseSettings),
        (online, OnlineSettings),
        (object_store, ObjectStoreSettings),
        (catalog, LakeSettings),
        (tracking, TrackingSettings),
    ],
)
def test_a_connection_asks_for_one_part(connection: object, part: type[Part]) -> None:
    """Each connection is typed by the smallest part that it needs."""
    assert getattr(connection, "__annotations__", {})["settings"] is part


@pytest.mark.parametrize(
    ("part", "name", "value", "sentence"),
    [
        (TrackingSettings, "MLFLOW_URL", "mlflow:5000", f"does not begin with http:// or https:// ('mlflow:5000'); expected: {URL}."),
        (TrackingSettings, "MLFLOW_URL", "http://", f"has no host ('http://'); expected: {URL}."),
        (TrackingSettings, "MLFLOW_URL", "http://m:b", f"has a host or a port that cannot be read ('http://m:b'); expected: {URL}."),
        (
            TrackingSettings, "MLFLOW_URL", f"ftp://me:{SECRET}@mlflow",
            f"does not begin with http:// or https:// (the value is not shown); expected: {URL}.",
        ),
        (
            WarehouseSettings, "WAREHOUSE_DSN", f"mysql://me:{SECRET}@db/warehouse",
            f"does not begin with postgresql:// (the value is not shown); expected: {DSN}.",
        ),
        (
            WarehouseSettings, "WAREHOUSE_DSN", f"postgresql://me:{SECRET}@db:port/warehouse",
            f"has a host or a port that cannot be read (the value is not shown); expected: {DSN}.",
        ),
        (
            WarehouseSettings, "WAREHOUSE_DSN", f"postgresql://me:{SECRET}@db",
            f"has no database (the value is not shown); expected: {DSN}.",
        ),
        (
            WarehouseSettings, "WAREHOUSE_DSN", f"postgresql://me:{SECRET}@db/warehouse?sslmod=verify-full",
            f"has a parameter that libpq does not know, or a character that must be percent-encoded {NOT_SHOWN}; expected: {DSN}.",
        ),
        (
            WarehouseSettings, "WAREHOUSE_DSN", f"host=db dbname=warehouse password={SECRET} sslmode=verify",
            f"has an sslmode other than disable, allow, prefer, require, verify-ca, verify-full {NOT_SHOWN}; expected: {DSN}.",
        ),
        (
            WarehouseSettings, "WAREHOUSE_DSN", f"postgresql://me:{SECRET}@db,db2:1,db3:2/warehouse?port=1,2",
            f"has a host or a port that cannot be read (the value is not shown); expected: {DSN}.",
        ),
        (WarehouseSettings, "WAREHOUSE_DSN", f"postgresql:///{SECRET}", f"has no host (the value is not shown); expected: {DSN}."),
    ],
)  # fmt: skip
def test_a_malformed_value_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: type[Part], name: str, value: str, sentence: str
) -> None:
    """The sentence names the variable, what is wrong and what is expected; a secret is in no part of the error."""
    monkeypatch.setenv(f"PIPELINE_{name}", value)
    with pytest.raises(SettingsMalformed) as failure:
        read_part(part, tmp_path)

    assert str(failure.value) == f"PIPELINE_{name} {sentence}"
    assert SECRET not in str(failure.value)
    assert (failure.value.__cause__, failure.value.__context__) == (None, None)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PIPELINE_DATABASES", f"{{'orders': '{SECRET}'}}", "PIPELINE_DATABASES is no JSON (the value is not shown)"),
        ("PIPELINE_DATABASES", f'["{SECRET}"]', "PIPELINE_DATABASES is no mapping (the value is not shown)"),
        (
            "PIPELINE_DATABASES__ORDERS",
            SECRET,
            "PIPELINE_DATABASES__ORDERS does not begin with postgresql://, and is no list of keyword=value pairs (the value is not shown)",
        ),
        ("PIPELINE_SERVICES__RATES", SECRET, "PIPELINE_SERVICES__RATES is no mapping (the value is not shown)"),
        ("PIPELINE_SERVICES__RATES__URL", "rates", "PIPELINE_SERVICES__RATES__URL does not begin with http:// or https:// ('rates')"),
    ],
)
def test_a_malformed_value_of_a_mapping_is_named_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    """A mapping is one variable of JSON, or one variable for each of its values."""
    for mapping in ("PIPELINE_DATABASES", "PIPELINE_SERVICES"):
        monkeypatch.setenv(mapping, "{}")
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIPELINE_SERVICES__RATES__API_KEY" if name.endswith("__URL") else "PIPELINE_OTHER", "key")
    with pytest.raises(SettingsMalformed) as failure:
        read_part(SourceSettings, tmp_path)

    assert str(failure.value).startswith(f"{sentence}; expected: ")
    assert SECRET not in str(failure.value)


def test_every_malformed_value_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence for each, in one error."""
    monkeypatch.setenv("PIPELINE_KAFKA_BOOTSTRAP", "kafka")
    monkeypatch.setenv("PIPELINE_CONNECT_URL", "connect")
    with pytest.raises(SettingsMalformed) as failure:
        read_part(StreamSettings, tmp_path)

    assert failure.value.names == ("PIPELINE_KAFKA_BOOTSTRAP", "PIPELINE_CONNECT_URL")
    assert len(str(failure.value).splitlines()) == 2


@pytest.mark.parametrize("value", ["-1", "soon", "nan"])
def test_seconds_are_a_number(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A wait is never negative, and never without end."""
    monkeypatch.setenv("PIPELINE_RUN_WAIT_SECONDS", value)
    with pytest.raises(SettingsMalformed, match=r"PIPELINE_RUN_WAIT_SECONDS is no such number .* a number of seconds, 0 or more"):
        read_stack_settings()


def test_an_empty_variable_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value that the stack has written is used where the environment has an empty one."""
    (tmp_path / STACK_ENV).write_text("PIPELINE_MLFLOW_URL=http://127.0.0.1:5000\n")
    monkeypatch.setenv("PIPELINE_MLFLOW_URL", "")

    assert read_part(TrackingSettings, tmp_path).mlflow_url == "http://127.0.0.1:5000"


def test_no_value_is_in_what_a_log_would_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DSNs, keys and passwords are hidden in the settings themselves."""
    for name, value in {**STORES, "PIPELINE_S3_SECRET_KEY": SECRET}.items():
        monkeypatch.setenv(name, value.replace(":secret@", f":{SECRET}@"))

    assert SECRET not in repr(read_part(Predictions, tmp_path))


def test_all_settings_name_all_that_is_missing(tmp_path: Path) -> None:
    """The code location and the command line need every part."""
    with pytest.raises(SettingsMissing, match=r"PIPELINE_DAGSTER_DSN.*pipeline up"):
        read_settings(tmp_path)


def test_settings_are_read_again_where_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was written anew and a variable that was set count at the next call; without a change the same ones are given."""
    every = {
        **STORES, "PIPELINE_CATALOG_DSN": "postgresql://c:c@db/c", "PIPELINE_ONLINE_DSN": "postgresql://o:o@db/o",
        "PIPELINE_MLFLOW_URL": "https://mlflow.example.com", "PIPELINE_KAFKA_BOOTSTRAP": "kafka:9092", "PIPELINE_CONNECT_URL": "https://connect",
        "PIPELINE_DAGSTER_DSN": "postgresql://d:d@db/d", "PIPELINE_DAGSTER_URL": "https://dagster", "PIPELINE_SERVE_URL": "https://serve",
        "PIPELINE_SERVE_READ_KEY": "k", "PIPELINE_REPLICATION": "{}", "PIPELINE_SERVICES": "{}", "PIPELINE_DATABASES": "{}",
    }  # fmt: skip
    file = tmp_path / STACK_ENV
    file.write_text("".join(f"{name}={value}\n" for name, value in every.items()))
    first, again = read_settings(tmp_path), read_settings(tmp_path)
    file.write_text(file.read_text().replace("PIPELINE_S3_BUCKET=ours", "PIPELINE_S3_BUCKET=hers"))
    changed = read_settings(tmp_path)
    monkeypatch.setenv("PIPELINE_S3_BUCKET", "theirs")

    assert again is first
    assert (first.s3_bucket, changed.s3_bucket, read_settings(tmp_path).s3_bucket) == ("ours", "hers", "theirs")


def test_the_code_location_needs_no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which use cases there are is read without a setting of any service; a relative folder is one of the current folder."""
    (tmp_path / "models").mkdir()
    (tmp_path / "dbt_project.yml").touch()
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("PIPELINE_USE_CASES", "refunds, churn,")
    monkeypatch.setenv("PIPELINE_USE_CASES_PACKAGE", "shop.use_cases")
    monkeypatch.setenv("PIPELINE_DBT_PROJECT", tmp_path.name)
    found = read_code_settings()

    assert (found.use_cases, found.use_cases_package, found.dbt_project) == (("refunds", "churn"), "shop.use_cases", tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PIPELINE_USE_CASES_PACKAGE", "shop/use_cases", "PIPELINE_USE_CASES_PACKAGE is no name of a package ('shop/use_cases')"),
        ("PIPELINE_DBT_PROJECT", "/nowhere", "PIPELINE_DBT_PROJECT is no dbt project ('/nowhere')"),
    ],
)
def test_code_that_cannot_be_found_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    """The error comes before anything is imported."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsMalformed) as failure:
        read_code_settings()

    assert str(failure.value).startswith(sentence)
