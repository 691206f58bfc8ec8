"""DSNs by libpq's own rules: each consumer gets all that one says, or an error says what it cannot be given."""

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from sqlalchemy import create_engine, make_url

from pipeline_assets.core.dsn import ALIVE, kept_alive, read_address, sqlalchemy_url, with_time_zone
from pipeline_assets.core.errors import SettingNotSupported, SettingsMalformed
from pipeline_assets.core.settings import Settings, WarehouseSettings
from pipeline_assets.ingestion.batch.postgres import place_of_source
from pipeline_assets.ingestion.streaming.capture import configs as connectors
from pipeline_assets.local_stack.connect import passwords
from pipeline_assets.local_stack.dagster import quoted
from pipeline_assets.processing.cleaning.dbt import variables
from pipeline_assets.spec.sources import PostgresTable
from pipeline_assets_tests.connector_configs import HIDDEN, settings_with

DATABASE = "shop"
SETTING = "PIPELINE_REPLICATION__SHOP"
ALL_FORMS = (
    f"postgresql://reader:{HIDDEN}@db.example:6432/shop",
    f"postgres://reader:{HIDDEN}@db.example:6432/shop",
    f"postgresql://db.example:6432/shop?user=reader&password={HIDDEN}",
    f"postgresql:///shop?host=db.example&port=6432&user=reader&password={HIDDEN}",
    f"host=db.example port=6432 dbname=shop user=reader password={HIDDEN}",
    f"host = 'db.example' port=6432 dbname = 'shop' user=reader password = '{HIDDEN}'",
)


def with_replication(dsn: str) -> Settings:
    """Settings with a DSN for the role that reads changes."""
    return settings_with(DATABASE).model_copy(update={"replication": {DATABASE: SecretStr(dsn)}, "databases": {DATABASE: SecretStr(dsn)}})


def connector(dsn: str) -> dict[str, str]:
    """What the connector that reads changes is given of a DSN; the password is in none of it."""
    found = connectors.changes(with_replication(dsn), DATABASE, [PostgresTable(database=DATABASE, table="orders")])
    assert HIDDEN not in str(found)
    return {name: value for name, value in found.items() if name.startswith(("database.", "driver."))}


def catalog(dsn: str) -> dict[str, str]:
    """What the sink's catalog is given of a DSN; the password is in none of it."""
    settings = settings_with(DATABASE).model_copy(update={"catalog_dsn": SecretStr(dsn)})
    found = connectors.landing(settings, "orders")
    assert HIDDEN not in str(found)
    return {
        name.removeprefix("iceberg.catalog."): value
        for name, value in found.items()
        if name.startswith(("iceberg.catalog.jdbc.", "iceberg.catalog.uri"))
    }


def dbt(dsn: str) -> dict[str, str]:
    """What dbt finds in its environment of a DSN."""
    return variables(WarehouseSettings.model_construct(home=Path(), warehouse_dsn=SecretStr(dsn)))


def by_sqlalchemy(dsn: str) -> dict[str, str]:
    """What SQLAlchemy gives to libpq for a DSN."""
    url = sqlalchemy_url(SETTING, dsn, "psycopg")
    _, found = create_engine(url).dialect.create_connect_args(make_url(url))
    return {name: str(value) for name, value in found.items() if name != "context"}


@pytest.mark.parametrize("dsn", ALL_FORMS)
def test_all_forms_of_a_dsn_say_the_same(dsn: str) -> None:
    """A URI, one with its parts in the query and pairs of keyword and value lead every consumer to the same database."""
    parts = {"host": "db.example", "port": "6432", "dbname": "shop", "user": "reader", "password": HIDDEN}

    assert {name: value for name, value in connector(dsn).items() if name != "database.password"} == {
        "database.hostname": "db.example",
        "database.port": "6432",
        "database.dbname": "shop",
        "database.user": "reader",
    }
    assert catalog(dsn)["uri"] == "jdbc:postgresql://db.example:6432/shop"
    assert catalog(dsn)["jdbc.user"] == "reader"
    assert by_sqlalchemy(dsn) == parts
    assert {name: dbt(dsn)[f"PIPELINE_DBT_{name.upper()}"] for name in ("host", "port", "dbname", "user")} | {
        "password": dbt(dsn)["DBT_ENV_SECRET_PASSWORD"]
    } == parts
    assert conninfo_to_dict(place_of_source(with_replication(dsn), DATABASE).conninfo).items() >= parts.items()


def test_certificates_and_modes_are_passed_on_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What verifies the server, and what the client shows, reaches JDBC drivers, dbt and SQLAlchemy."""
    said = {"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem", "sslcert": "/etc/me.pem", "sslkey": "/etc/me.key"}
    dsn = "postgresql://reader@db.example/shop?" + "&".join(f"{name}={value}" for name, value in said.items())
    monkeypatch.delenv("PGSSLMODE", raising=False)

    assert connector(dsn).items() >= {f"database.{name}": value for name, value in said.items()}.items()
    assert catalog(dsn).items() >= {f"jdbc.{name}": value for name, value in said.items()}.items()
    assert dbt(dsn).items() >= {f"PIPELINE_DBT_{name.upper()}": value for name, value in said.items()}.items()
    assert by_sqlalchemy(dsn).items() >= said.items()


def test_what_jdbc_names_in_another_way_is_translated() -> None:
    """Other parameters go to the driver under its own names, with its own values."""
    dsn = "postgresql://reader@db.example/shop?options=-c%20search_path%3Da&connect_timeout=7&keepalives=0&target_session_attrs=read-write"
    expected = {"options": "-c search_path=a", "connectTimeout": "7", "targetServerType": "primary"}

    assert connector(dsn).items() >= {f"driver.{name}": value for name, value in expected.items()}.items()
    assert connector(dsn)["database.tcpKeepAlive"] == "false"
    assert catalog(dsn).items() >= {f"jdbc.{name}": value for name, value in expected.items()}.items()


@pytest.mark.parametrize(("mode", "given"), [("disable", "disable"), ("require", "verify-ca"), ("verify-ca", "verify-ca")])
def test_jdbc_verifies_as_much_as_libpq(mode: str, given: str) -> None:
    """With a root certificate libpq verifies it from `require` on, the JDBC driver only from `verify-ca` on."""
    dsn = f"postgresql://reader@db.example/shop?sslmode={mode}&sslrootcert=/etc/ca.pem"

    assert connector(dsn)["database.sslmode"] == given
    assert connector(dsn.replace("&sslrootcert=/etc/ca.pem", ""))["database.sslmode"] == mode


@pytest.mark.parametrize(
    ("query", "parameter", "remedy"),
    [
        ("sslrootcert=/etc/ca.pem", "sslrootcert with sslmode=prefer", "sslmode=verify-full"),
        ("sslrootcert=/etc/ca.pem&sslmode=allow", "sslrootcert with sslmode=allow", "sslmode=verify-full"),
        ("sslrootcert=system&sslmode=verify-full", "sslrootcert=system", "Name a file"),
        (f"sslpassword={HIDDEN}", "sslpassword", "Leave it out"),
        ("sslcrl=/etc/revoked.pem", "sslcrl", "Leave it out"),
        ("keepalives_idle=9", "keepalives_idle", "Leave it out"),
        ("target_session_attrs=read-only", "target_session_attrs", "Leave it out"),
        ("hostaddr=10.0.0.1", "hostaddr", "looks up the host"),
        ("host=/var/run/postgresql", "host", "by TCP only"),
        ("application_name=ours", "application_name", "names its connections itself"),
    ],
)
def test_what_debezium_cannot_be_given_is_refused_by_name(query: str, parameter: str, remedy: str) -> None:
    """The error names setting, parameter, library and what to do, and shows no value that may be secret."""
    with pytest.raises(SettingNotSupported, match=remedy) as refused:
        connector(f"postgresql://reader:{HIDDEN}@db.example/shop?{query}")

    assert str(refused.value).startswith(f"{SETTING} says '{parameter}', which Debezium cannot be given. ")
    assert HIDDEN not in str(refused.value)


@pytest.mark.parametrize("place", ["[::1]:5432", "one.example,two.example"])
def test_debezium_takes_one_server_by_name(place: str) -> None:
    """Several hosts, and an IPv6 address, which it would not take, are refused; the sink's catalog takes both."""
    dsn = f"postgresql://reader@{place}/shop"

    with pytest.raises(SettingNotSupported, match=r"says 'host'"):
        connector(dsn)
    assert catalog(dsn)["uri"] == f"jdbc:postgresql://{place.replace('one.example', 'one.example:5432').removesuffix(':5432')}:5432/shop"


def test_several_hosts_are_tried_in_their_order() -> None:
    """Hosts reach libpq with their ports, all of them, whichever library calls it; dbt takes one port for all."""
    dsn = "postgresql://reader@one.example:1,two.example:2/shop"

    assert by_sqlalchemy(dsn).items() >= {"host": "one.example,two.example", "port": "1,2"}.items()
    assert catalog(dsn)["uri"] == "jdbc:postgresql://one.example:1,two.example:2/shop"
    assert dbt(dsn.replace(":2", ":1"))["PIPELINE_DBT_HOST"] == "one.example,two.example"
    with pytest.raises(SettingNotSupported, match=r"says 'port', which dbt"):
        dbt(dsn)


def test_dbt_finds_the_rest_where_libpq_looks_for_it() -> None:
    """What a profile of dbt has no word for stands in the variables of libpq, its own options first; what has no variable is refused."""
    dsn = "postgresql://me@db.example/shop?options=-c%20work_mem%3D1MB&passfile=/etc/pass&channel_binding=require"

    assert dbt(dsn)["PGOPTIONS"].startswith(
        "-c lock_timeout=300000ms -c statement_timeout=21600000ms -c work_mem=1MB -c timezone=UTC -c datestyle=ISO,MDY "
    )
    assert dbt(dsn).items() >= {"PGPASSFILE": "/etc/pass", "PGCHANNELBINDING": "require"}.items()
    with pytest.raises(SettingNotSupported, match=r"says 'tcp_user_timeout', which dbt cannot be given"):
        dbt(dsn + "&tcp_user_timeout=9")


def test_a_service_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A section of a service file is part of the DSN that names it, and what the DSN itself says goes before it."""
    (tmp_path / "services").write_text("[shop]\nhost=db.example\nport=6432\ndbname=other\nuser=reader\nsslmode=verify-full\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))

    assert connector("service=shop dbname=shop") == {
        "database.hostname": "db.example",
        "database.port": "6432",
        "database.dbname": "shop",
        "database.user": "reader",
        "database.sslmode": "verify-full",
    }
    with pytest.raises(SettingsMalformed, match=r"PIPELINE_REPLICATION__SHOP names the service 'stock', which no service file has"):
        connector("service=stock")


def test_variables_of_libpq_count_for_those_that_do_not_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the platform's own connections verify by `PGSSLMODE`, the JDBC driver verifies too; the DSN goes before it."""
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    dsn = "postgresql://reader@db.example/shop"

    assert connector(dsn)["database.sslmode"] == "verify-full"
    assert connector(dsn + "?sslmode=require")["database.sslmode"] == "require"


def test_what_a_dsn_says_goes_before_what_the_platform_would_set() -> None:
    """Options stay beside the time zone; the name and the patience of a connection stay those that were given."""
    dsn = "postgresql://me@db.example/shop?options=-c%20work_mem%3D1MB&connect_timeout=3&application_name=ours"
    kept = conninfo_to_dict(place_of_source(with_replication(dsn), DATABASE).conninfo)

    assert conninfo_to_dict(with_time_zone(SETTING, SecretStr(dsn)))["options"] == "-c work_mem=1MB -c timezone=UTC"
    assert (kept["connect_timeout"], kept["application_name"]) == ("3", "ours")


def test_names_with_signs_of_urls_stay_as_they_are() -> None:
    """A database, a role and a password may have any sign."""
    parts = {"host": "db.example", "port": "5432", "dbname": "sh?p/1", "user": "r@d er", "password": "p:/?#'\\%"}
    dsn = "host=db.example dbname='sh?p/1' user='r@d er' password='p:/?#\\'\\\\%'"

    assert by_sqlalchemy(dsn) == parts
    assert catalog(dsn)["uri"] == "jdbc:postgresql://db.example:5432/sh%3Fp%2F1"
    assert passwords({**SECRETS, SETTING: dsn})[1] == "db.example:5432:*:r@d er:p\\:/?#'\\\\%"


SECRETS = {"PIPELINE_CATALOG_DSN": f"host=db.example dbname=catalog user=lake password={HIDDEN}"}


def test_the_worker_gets_the_password_of_any_form() -> None:
    """The file of passwords has it for server and role of the DSN, whichever form that has; another such file is refused by name."""
    assert [passwords({**SECRETS, SETTING: dsn}) for dsn in ALL_FORMS] == [
        [f"db.example:5432:*:lake:{HIDDEN}", f"db.example:6432:*:reader:{HIDDEN}"]
    ] * len(ALL_FORMS)
    assert passwords({"PIPELINE_CATALOG_DSN": f"postgresql://lake:{HIDDEN}@one:1,two/catalog"}) == [f"one,two:1,5432:*:lake:{HIDDEN}"]
    assert passwords({"PIPELINE_CATALOG_DSN": "postgresql://lake@one/catalog?sslcert=lake.crt"}) == []
    with pytest.raises(SettingNotSupported, match=r"PIPELINE_REPLICATION__SHOP says 'passfile', which Kafka Connect cannot be given"):
        passwords({**SECRETS, SETTING: "host=db.example dbname=shop passfile=/etc/pass"})


def test_the_password_is_not_shown_with_the_address() -> None:
    """The repr of an address has its setting alone."""
    assert repr(read_address(SETTING, ALL_FORMS[0])) == f"Address(setting='{SETTING}')"


def test_quotes_of_a_dsn_survive_the_dotenv_file(tmp_path: Path) -> None:
    """What is written for the command line tools is read as it was."""
    from dotenv import dotenv_values

    value = "host=db password='it''s \\' $HOME'"
    (tmp_path / ".env").write_text(f"DSN={quoted(value)}\n")

    assert dotenv_values(tmp_path / ".env", interpolate=False)["DSN"] == value


def test_a_kept_connection_notices_that_nobody_is_there() -> None:
    """A URL says so to the driver; what it says itself stays."""
    url = kept_alive("postgresql+psycopg://ann:s%40cret@db:5432/lake?connect_timeout=3&options=-c+statement_timeout%3D5")

    assert url.startswith("postgresql+psycopg://ann:s%40cret@db:5432/lake?")
    assert dict(make_url(url).query) == {**ALIVE, "connect_timeout": "3", "options": "-c statement_timeout=5"}
