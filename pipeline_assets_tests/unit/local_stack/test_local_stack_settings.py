"""The settings of the stack: what it reads from the environment, and what it hands out."""

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline_assets.core.errors import PortTaken, SettingsMissing, UserInputError
from pipeline_assets.core.settings import ROOT, StackSettings, environment_of_children, read_settings, read_stack_settings
from pipeline_assets.core.state_errors import StateFileDamaged
from pipeline_assets.local_stack import connect, dagster, kafka, online_worker, prediction_service, s3, settings
from pipeline_assets.local_stack.inventory import described
from pipeline_assets.local_stack.kafka import CONTROLLER
from pipeline_assets.local_stack.plan import (
    CODE,
    CONNECT,
    DAEMON,
    KAFKA,
    MLFLOW,
    ONLINE_WORKER,
    POSTGRES,
    PREDICTIONS,
    S3,
    WEBSERVER,
    Plan,
    load_secrets,
    write_private,
)
from pipeline_assets.local_stack.ports import free_port, holder, is_free, is_listening, require_free
from pipeline_assets.local_stack.processes import fingerprint
from pipeline_assets.local_stack.worlds import read_worlds
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets_tests.stack_services import FREE, WEATHER

S3_ELSEWHERE = {
    "PIPELINE_S3_ENDPOINT": "https://s3.example.com",
    "PIPELINE_S3_REGION": "eu-central-1",
    "PIPELINE_S3_BUCKET": "ours",
    "PIPELINE_S3_ACCESS_KEY": "their-access-key",
    "PIPELINE_S3_SECRET_KEY": "their-secret-key",
}
SERVICES = described(read_worlds(ROOT))


def plan(home: Path, given: Mapping[str, str] | None = None, *, root: Path = ROOT, ports: Mapping[str, int] = FREE) -> Plan:
    """The plan of a stack whose environment has the given settings."""
    stack = StackSettings(ports=dict(ports), given=dict(given or {}))
    return settings.make_plan(described(read_worlds(root)).values(), stack, root, home)


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


def test_settings_made_here_are_complete_and_private(tmp_path: Path) -> None:
    """`stack.env` is all that the product needs, and only its owner can read it."""
    made = plan(tmp_path)
    path = settings.write_settings(made)
    read = read_settings(tmp_path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert read.warehouse_dsn.get_secret_value() == made.settings["PIPELINE_WAREHOUSE_DSN"]
    assert read.s3_endpoint == f"http://127.0.0.1:{made.ports[S3]}"
    assert read.services["weather"].url == f"http://127.0.0.1:{made.ports[WEATHER]}"


def test_secrets_are_random_and_stay(tmp_path: Path) -> None:
    """Two folders have different secrets, one folder the same for ever."""
    first, second = tmp_path / "first", tmp_path / "second"
    for home in (first, second):
        home.mkdir()

    assert load_secrets(first, ("a", "b")) == load_secrets(first, ("a",))
    assert set(load_secrets(first, ("a", "b")).values()).isdisjoint(load_secrets(second, ("a", "b")).values())


def test_a_service_that_the_environment_points_to_is_not_started(tmp_path: Path) -> None:
    """The given settings are used, and not copied into `stack.env`."""
    made = plan(tmp_path, S3_ELSEWHERE)
    text = settings.write_settings(made).read_text()

    assert [name for name, service in SERVICES.items() if service.is_elsewhere(S3_ELSEWHERE)] == [S3]
    assert made.settings["PIPELINE_S3_ENDPOINT"] == "https://s3.example.com"
    assert "their-secret-key" not in text
    assert "PIPELINE_S3_ENDPOINT" not in text


def handed_out(home: Path, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """What `stack.env` of a stack says, as whoever loads it has it in the environment."""
    lines = settings.write_settings(plan(home, given)).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def seen_elsewhere(home: Path, given: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The services that are taken for elsewhere in this environment, and what of it counts as given."""
    kept = settings.without_own(list(SERVICES.values()), StackSettings(ports=dict(FREE), given=dict(given)), ROOT, home).given
    return [name for name, service in SERVICES.items() if service.is_elsewhere(kept)], kept


def test_what_the_stack_handed_out_itself_makes_no_service_one_of_others(tmp_path: Path) -> None:
    """Regression: with its own values in the environment, `up` took all services for elsewhere, and emptied `stack.env`."""
    loaded = handed_out(tmp_path)
    elsewhere, kept = seen_elsewhere(tmp_path, loaded)

    assert [name for name, service in SERVICES.items() if service.is_elsewhere(loaded)] == list(SERVICES)
    assert (elsewhere, kept) == ([], {})
    assert handed_out(tmp_path, kept) == loaded


def test_what_an_older_version_handed_out_is_still_the_own(tmp_path: Path) -> None:
    """Before there was a role that reads batches it was the owner's DSN: no database is one of others for that, and the role's comes."""
    loaded = handed_out(tmp_path)
    owned = {name.replace("OWNERS", "DATABASES"): value for name, value in loaded.items() if name.startswith("PIPELINE_OWNERS__")}
    older = {**{name: value for name, value in loaded.items() if not name.startswith("PIPELINE_OWNERS__")}, **owned}
    (tmp_path / "stack.env").write_text("".join(f"{name}={value}\n" for name, value in older.items()))
    for _ in range(2):
        # The second time the file has the role's, and the shell still the owner's.
        elsewhere, kept = seen_elsewhere(tmp_path, older)
        assert (elsewhere, kept) == ([], {})
        assert handed_out(tmp_path, kept) == loaded


def test_a_look_at_the_own_values_keeps_no_ports(tmp_path: Path) -> None:
    """`status` looks, without the ports that `up` was given: the next `up` finds its own again."""
    loaded = handed_out(tmp_path)
    before = (tmp_path / "ports.json").read_text()
    kept = settings.without_own(list(SERVICES.values()), StackSettings(given=loaded), ROOT, tmp_path).given

    assert (tmp_path / "ports.json").read_text() == before
    assert [name for name, service in SERVICES.items() if service.is_elsewhere(kept)] == []


def test_what_others_gave_stays_given_beside_the_own_values(tmp_path: Path) -> None:
    """A store elsewhere keeps region and bucket, though the own store would have the same ones; a database elsewhere stays there."""
    lake = {"PIPELINE_CATALOG_DSN": "postgresql://lake@db.example.com/lake"}
    there = {**S3_ELSEWHERE, **lake, "PIPELINE_S3_BUCKET": "pipeline", "PIPELINE_S3_REGION": "us-east-1"}
    elsewhere, kept = seen_elsewhere(tmp_path, {**handed_out(tmp_path), **there})

    assert elsewhere == [S3]
    assert kept == there


def test_the_own_values_count_as_such_when_the_file_that_has_them_is_gone(tmp_path: Path) -> None:
    """They are those that the stack would hand out again; in a folder without a stack all that is given is of others."""
    loaded = handed_out(tmp_path)
    (tmp_path / "stack.env").unlink()

    assert seen_elsewhere(tmp_path, loaded)[0] == []
    assert seen_elsewhere(tmp_path / "other", loaded) == (list(SERVICES), loaded)


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"postgres": "15432"}', '{"s3": true}', "\x00\x00"])
def test_damaged_ports_name_their_file_and_what_to_do(tmp_path: Path, damaged: str) -> None:
    """One sentence with the path; once the file is deleted, the ports are picked anew."""
    plan(tmp_path)
    (tmp_path / "ports.json").write_text(damaged)
    with pytest.raises(StateFileDamaged, match=r"ports\.json cannot be read: .*\. Delete it: `pipeline up` picks the ports anew\.$"):
        plan(tmp_path)
    (tmp_path / "ports.json").unlink()

    assert plan(tmp_path).ports[POSTGRES] > 0


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"postgres": 7}'])
def test_damaged_secrets_name_their_file_and_what_to_do(tmp_path: Path, damaged: str) -> None:
    """No new secrets are made: what was stored with the old ones could not be read."""
    plan(tmp_path)
    (tmp_path / "secrets.json").write_text(damaged)
    with pytest.raises(StateFileDamaged, match=r"secrets\.json cannot be read: .* Restore it from a backup"):
        plan(tmp_path)

    assert (tmp_path / "secrets.json").read_text() == damaged


@pytest.mark.parametrize("service", [POSTGRES, S3, KAFKA])
@pytest.mark.parametrize("left", [None, "{}", '{"warehouse": "known"}'])
def test_secrets_that_are_gone_are_not_made_anew_beside_data(tmp_path: Path, service: str, left: str | None) -> None:
    """Regression: new ones were made, and nobody could log in to PostgreSQL any more."""
    (tmp_path / service / "data").mkdir(parents=True)
    if left is not None:
        (tmp_path / "secrets.json").write_text(left)
    with pytest.raises(StateFileDamaged, match=rf"there is data of {service} that was made with it\. Restore it from a backup"):
        plan(tmp_path)

    assert (tmp_path / "secrets.json").exists() == (left is not None)


def test_a_secret_that_a_later_version_needs_is_added(tmp_path: Path) -> None:
    """The others stay as they are, beside data."""
    before = dict(plan(tmp_path).secrets)
    (tmp_path / POSTGRES / "data").mkdir(parents=True)
    older = {name: value for name, value in before.items() if name != "connect_password"}
    (tmp_path / "secrets.json").write_text(json.dumps(older))
    after = plan(tmp_path).secrets

    assert {name: value for name, value in after.items() if name in older} == older
    assert after["connect_password"] != before["connect_password"]


def test_a_damaged_stack_env_names_its_file_and_what_to_do(tmp_path: Path) -> None:
    """What is no text is refused in one sentence; what is missing is named, with the command that writes it."""
    handed_out(tmp_path)
    (tmp_path / "stack.env").write_bytes(b"PIPELINE_S3_BUCKET=\xff\xfe\n")
    with pytest.raises(StateFileDamaged, match=r"stack\.env cannot be read: it is no text\. `pipeline up` writes it anew\."):
        read_settings(tmp_path)
    (tmp_path / "stack.env").write_text("")
    with pytest.raises(SettingsMissing, match=r"PIPELINE_WAREHOUSE_DSN.*run `pipeline up`"):
        read_settings(tmp_path)


def test_a_half_given_service_names_all_that_is_missing(tmp_path: Path) -> None:
    """An endpoint needs region, bucket and keys as well."""
    with pytest.raises(SettingsMissing) as failure:
        plan(tmp_path, {"PIPELINE_S3_ENDPOINT": "https://s3.example.com", "PIPELINE_SERVICES__WEATHER__URL": "https://weather.example.com"})

    assert failure.value.names == (
        "PIPELINE_S3_REGION",
        "PIPELINE_S3_BUCKET",
        "PIPELINE_S3_ACCESS_KEY",
        "PIPELINE_S3_SECRET_KEY",
        "PIPELINE_SERVICES__WEATHER__API_KEY",
    )


@pytest.mark.parametrize(
    ("given", "elsewhere"),
    [
        ({"PIPELINE_WAREHOUSE_DSN"}, set()),
        ({"PIPELINE_WAREHOUSE_DSN", "PIPELINE_CATALOG_DSN", "PIPELINE_DAGSTER_DSN", "PIPELINE_DATABASES__AIRLINE_OPS"}, set()),
        (
            {
                "PIPELINE_WAREHOUSE_DSN",
                "PIPELINE_ONLINE_DSN",
                "PIPELINE_CATALOG_DSN",
                "PIPELINE_DAGSTER_DSN",
                "PIPELINE_DATABASES__AIRLINE_OPS",
                "PIPELINE_DATABASES__LEAGUE",
                "PIPELINE_MLFLOW_DSN",
            },
            {POSTGRES, ONLINE_WORKER},
        ),
        ({"PIPELINE_ONLINE_DSN"}, {ONLINE_WORKER}),
        ({"PIPELINE_SERVE_URL"}, {PREDICTIONS}),
        ({"PIPELINE_MLFLOW_URL"}, {MLFLOW}),
        ({"PIPELINE_DAGSTER_URL"}, {CODE, WEBSERVER, DAEMON}),
        ({"PIPELINE_SERVICES__WEATHER__URL"}, {WEATHER}),
        ({"PIPELINE_KAFKA_BOOTSTRAP"}, {KAFKA}),
        ({"PIPELINE_CONNECT_URL"}, {CONNECT}),
    ],
)
def test_postgres_is_started_while_one_database_is_needed(given: set[str], elsewhere: set[str]) -> None:
    """A service is elsewhere when the environment has everything that it would provide."""
    assert {name for name, service in SERVICES.items() if service.is_elsewhere(given)} == elsewhere


def test_a_kafka_connect_elsewhere_does_not_get_the_login_of_the_own_one(tmp_path: Path) -> None:
    """Where an address is given, no login is made for it; half of a login names the other half."""
    there = {"PIPELINE_CONNECT_URL": "http://connect.example.com:8083"}

    assert plan(tmp_path).settings["PIPELINE_CONNECT_PASSWORD"] == load_secrets(tmp_path)["connect_password"]
    assert [name for name in plan(tmp_path, there).settings if name in {"PIPELINE_CONNECT_USER", "PIPELINE_CONNECT_PASSWORD"}] == []
    with pytest.raises(SettingsMissing, match="PIPELINE_CONNECT_USER"):
        plan(tmp_path, {**there, "PIPELINE_CONNECT_PASSWORD": "theirs"})


def test_the_password_of_kafka_connect_is_in_files_that_their_owner_alone_reads(tmp_path: Path) -> None:
    """Login, callers and the passwords of databases have mode 600; no secret is on the command line."""
    made = plan(tmp_path)
    worker = connect.service(made)
    worker.folder.mkdir()
    connect.write_login(made, worker.folder)
    connect.write_passwords(made)
    found = {path.name: path.stat().st_mode & 0o777 for path in worker.folder.iterdir()}

    assert found == dict.fromkeys(("login.conf", "callers.properties", "pgpass"), 0o600)
    assert (worker.folder / "callers.properties").read_text() == f"pipeline={made.secrets['connect_password']}\n"
    assert [part for part in worker.command if any(known in part for known in made.secrets.values())] == []
    assert "-Dorg.apache.kafka.automatic.config.providers=none" in worker.command


def test_a_worker_started_here_uses_the_broker_that_is_given(tmp_path: Path) -> None:
    """The worker's bootstrap list is the given one; the broker's own port plays no part."""
    made = plan(tmp_path, {"PIPELINE_KAFKA_BOOTSTRAP": "kafka.example.com:9092"})

    assert connect.configuration(made)["bootstrap.servers"] == "kafka.example.com:9092"
    assert connect.configuration(plan(tmp_path))["bootstrap.servers"] == f"127.0.0.1:{made.ports[KAFKA]}"


def test_a_worker_started_here_logs_in_to_brokers_elsewhere(tmp_path: Path) -> None:
    """Each of its clients has the login, in a file and not on the command line, nor a hash of it there; another is another worker."""
    there = {
        "PIPELINE_KAFKA_BOOTSTRAP": "kafka.example.com:9092",
        "PIPELINE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "PIPELINE_KAFKA_USER": "connect",
        "PIPELINE_KAFKA_PASSWORD": 'a"b\\c',
    }
    made, other = plan(tmp_path, there), plan(tmp_path, {**there, "PIPELINE_KAFKA_PASSWORD": "other"})
    found = connect.configuration(made)

    assert found["sasl.jaas.config"].endswith(r'ScramLoginModule required username="connect" password="a\"b\\c";')
    for name in ("security.protocol", "sasl.mechanism", "sasl.jaas.config"):
        assert {found[f"{part}{name}"] for part in ("producer.", "consumer.", "admin.")} == {found[name]}
    assert connect.service(made).command == connect.service(other).command
    assert "-Djava.security.properties=sasl.properties" in connect.service(made).command
    assert fingerprint(connect.service(made)) != fingerprint(connect.service(other))


@pytest.mark.parametrize("alone", ["USER", "PASSWORD", "SECURITY_PROTOCOL", "AUTHORITY"])
def test_a_login_to_kafka_is_of_no_use_without_its_brokers(tmp_path: Path, alone: str) -> None:
    """It names what is missing, and is not sent to the broker of the stack."""
    with pytest.raises(SettingsMissing, match="PIPELINE_KAFKA_"):
        plan(tmp_path, {f"PIPELINE_KAFKA_{alone}": "SASL_SSL"})


def test_another_configuration_is_another_service(tmp_path: Path) -> None:
    """A broker or worker that runs with other settings than planned is known by its command line, and started again by `up`."""
    made = plan(tmp_path)
    moved = replace(made, ports={**made.ports, CONTROLLER: free_port()})
    elsewhere = replace(made, settings={**made.settings, "PIPELINE_KAFKA_BOOTSTRAP": "kafka.example.com:9092"})

    assert fingerprint(kafka.service(made)) == fingerprint(kafka.service(made)) != fingerprint(kafka.service(moved))
    assert fingerprint(connect.service(made)) == fingerprint(connect.service(made)) != fingerprint(connect.service(elsewhere))


def test_the_stream_worker_has_the_settings_of_the_product_and_no_secret_on_its_command_line(tmp_path: Path) -> None:
    """It is started by the command, knows its home folder, and is started again where a setting changed; ports of others are no such."""
    made = plan(tmp_path)
    service = online_worker.service(made)
    moved = replace(made, settings={**made.settings, "PIPELINE_ONLINE_DSN": "postgresql://db.example.com/online"})
    other_port = replace(made, settings={**made.settings, "PIPELINE_PORTS__S3": "9001"})

    assert service.command[1:] == ("features", "online", "run")
    assert service.environment["PIPELINE_HOME"] == str(tmp_path)
    assert service.environment["PIPELINE_ONLINE_DSN"] == made.settings["PIPELINE_ONLINE_DSN"]
    assert [name for name in service.environment if name.startswith("DAGSTER_")] == []
    assert fingerprint(service) == fingerprint(online_worker.service(other_port)) != fingerprint(online_worker.service(moved))


def test_whoever_watches_the_prediction_service_has_a_key_that_it_knows(tmp_path: Path) -> None:
    """A key that may read and nothing else, the same at each start, renewed by it; not in the service's environment, nor for another's."""
    made = plan(tmp_path)
    text = made.settings["PIPELINE_SERVE_READ_KEY"]
    service = prediction_service.service(made)
    service.finish()
    service.finish()
    keys = Keyring(tmp_path / "serve-keys.json")
    caller = keys.caller(text)

    assert plan(tmp_path).settings["PIPELINE_SERVE_READ_KEY"] == text
    assert caller is not None
    assert (caller.name, caller.roles) == ("stack", frozenset({Role.READ}))
    assert text not in service.environment.values()
    assert "PIPELINE_SERVE_READ_KEY" not in plan(tmp_path, {"PIPELINE_SERVE_URL": "https://predictions.example.com"}).settings


def test_the_prediction_service_has_no_credentials_but_those_that_it_needs(tmp_path: Path) -> None:
    """Those of owners of databases, of Kafka Connect, MLflow and Dagster are not in its environment, those given to the stack neither."""
    given = {"PIPELINE_CATALOG_DSN": "postgresql://lake:theirs@db.example.com/lake", "PIPELINE_DAGSTER_KEY": "pipe_theirs"}
    made = plan(tmp_path, given)
    environment = prediction_service.service(made).environment
    known = {name for name, secret in made.secrets.items() if any(secret in value for value in environment.values())}

    assert known == {"predictions", "s3_access_key", "s3_secret_key"}
    assert [environment[name] for name in given] == ["", ""]
    assert environment["PIPELINE_HOME"] == str(tmp_path)


def test_a_private_file_is_given_away_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: a link that was put in its place in between had root give away the file that it led to."""
    path, victim, rename = tmp_path / "pg_hba.conf", tmp_path / "victim", Path.rename
    victim.write_text("root's")
    before, user = victim.stat().st_uid, 65534 if os.geteuid() == 0 else os.getuid()

    def swapped(draft: Path, target: Path) -> Path:
        assert draft.stat().st_uid == user
        renamed = rename(draft, target)
        target.unlink()
        target.symlink_to(victim)
        return renamed

    monkeypatch.setattr(Path, "rename", swapped)
    write_private(path, "text", user)

    assert path.is_symlink()
    assert victim.stat().st_uid == before


def test_mlflow_has_its_bucket_at_each_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: a crash while the link was made anew left MLflow without its objects."""
    made = plan(tmp_path)
    link = s3.folder_of_mlflow(made, tmp_path) / "artifacts"
    (link / "one").write_text("kept")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            s3.folder_of_mlflow(made, tmp_path)

    assert (link / "one").read_text() == "kept"
    assert (s3.folder_of_mlflow(made, tmp_path) / "artifacts" / "one").read_text() == "kept"


def test_passwords_of_connectors_are_those_of_the_settings(tmp_path: Path) -> None:
    """Passwords are decoded from their DSNs, each for its server and role."""
    given = {"PIPELINE_CATALOG_DSN": "postgresql://lake:p%40ss%5Cword@db.example.com/lake"}
    lake, *readers = connect.passwords(plan(tmp_path, given).settings)

    assert lake == "db.example.com:5432:*:lake:p@ss\\\\word"
    assert sorted(line.split(":")[3] for line in readers) == ["airline_ops_replication", "league_replication"]


def test_without_a_simulator_the_sources_come_from_the_environment_alone(tmp_path: Path) -> None:
    """A project whose simulator was deleted gets no settings for it, and loads."""
    orders = {"PIPELINE_DATABASES__ORDERS": "postgresql://orders.example.com/orders"}
    made = plan(tmp_path, orders, root=tmp_path, ports={name: 0 for name in FREE if name != WEATHER})
    settings.write_settings(made)

    assert read_settings(tmp_path).databases == {}
    assert "PIPELINE_DATABASES__AIRLINE_OPS" not in made.settings


def test_the_owner_of_a_database_here_is_not_that_of_one_elsewhere(tmp_path: Path) -> None:
    """Who publishes tables of a database elsewhere is given, or is its role for batches; an owner alone names what is missing."""
    there = {f"PIPELINE_{role}__LEAGUE": "postgresql://somebody@db.example.com/league" for role in ("DATABASES", "REPLICATION")}
    made = plan(tmp_path, there).settings
    with pytest.raises(SettingsMissing, match="PIPELINE_DATABASES__LEAGUE"):
        plan(tmp_path, {"PIPELINE_OWNERS__LEAGUE": "postgresql://owner@db.example.com/league"})

    assert {name for name in made if name.startswith("PIPELINE_OWNERS__")} == {"PIPELINE_OWNERS__AIRLINE_OPS"}


def test_a_free_port_is_picked_once(tmp_path: Path) -> None:
    """Port 0 stays the same port over restarts, as long as nobody else takes it."""
    first = plan(tmp_path).ports
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", first[S3]))
        taker.listen()
        second = plan(tmp_path).ports

    assert second[S3] != first[S3]
    assert {name: port for name, port in second.items() if name != S3} == {name: port for name, port in first.items() if name != S3}


def test_ports_are_distinct_and_fixed_ones_are_kept(tmp_path: Path) -> None:
    """Every service has a port of its own; what is asked for is what is used."""
    port = free_port()
    made = plan(tmp_path, ports={**FREE, "mlflow": port})

    assert made.ports[MLFLOW] == port
    assert len(set(made.ports.values())) == len(made.ports)


def test_a_taken_port_names_port_and_holder(listener: int) -> None:
    """The error says which process has the port and which setting moves the service."""
    with pytest.raises(PortTaken) as failure:
        require_free("dagster-code", listener)

    assert (failure.value.port, failure.value.pid) == (listener, os.getpid())
    assert f"port {listener}" in str(failure.value)
    assert f"process {os.getpid()} ({' '.join(sys.orig_argv)[:20]}" in str(failure.value)
    assert "PIPELINE_PORTS__DAGSTER_CODE=" in str(failure.value)


def test_the_port_of_the_controller_is_looked_after_too(tmp_path: Path, listener: int) -> None:
    """The broker has two ports; a taken second one is reported before anything is started, with the setting that moves it."""
    made = plan(tmp_path, ports={**FREE, CONTROLLER: listener})
    with pytest.raises(PortTaken, match="PIPELINE_PORTS__KAFKA_CONTROLLER="):
        kafka.service(made).prepare()


def test_a_free_port_is_free() -> None:
    """A picked port can be had, and nobody answers on it."""
    port = free_port()

    assert is_free(port)
    assert not is_listening(port)
    assert holder(port) == (None, "")


@pytest.mark.parametrize("value", ["-1", "65536", "http"])
def test_a_port_that_is_none_is_an_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The message has the variable, its value and what is expected."""
    monkeypatch.setenv("PIPELINE_PORTS__S3", value)
    with pytest.raises(UserInputError, match=rf"PIPELINE_PORTS__S3 is no such number \('{value}'\); expected: a port from 0 to 65535"):
        read_stack_settings()


def test_the_environment_of_the_stack_is_read_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports, mirror and pointers are taken from the environment; empty variables count as not given."""
    monkeypatch.setenv("PIPELINE_PORTS__S3", "9999")
    monkeypatch.setenv("PIPELINE_MAVEN_URL", "https://mirror.example.com/maven")
    monkeypatch.setenv("PIPELINE_MLFLOW_URL", "https://mlflow.example.com")
    monkeypatch.setenv("PIPELINE_S3_ENDPOINT", "")
    stack = read_stack_settings()

    assert (stack.ports["s3"], stack.maven_url) == (9999, "https://mirror.example.com/maven")
    assert stack.given["PIPELINE_MLFLOW_URL"] == "https://mlflow.example.com"
    assert "PIPELINE_S3_ENDPOINT" not in stack.given


def test_children_may_keep_their_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service does not inherit that Python must not write bytecode, but everything else."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("SOMETHING", "else")
    environment = environment_of_children({"ADDED": "yes"})

    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert (environment["SOMETHING"], environment["ADDED"]) == ("else", "yes")


def test_the_dotenv_keeps_the_lines_of_others(tmp_path: Path) -> None:
    """The stack adds its lines, replaces only them, and takes only them away."""
    home = tmp_path / "home"
    home.mkdir()
    made = plan(home)
    path = dagster.dotenv(made.root, home)
    path.write_text("MINE=1\n")
    dagster.write_dotenv(made)
    once = path.read_text()
    dagster.write_dotenv(made)

    assert path == home / ".env"
    assert path.read_text() == once
    assert path.stat().st_mode & 0o777 == 0o600
    assert once.startswith("MINE=1\n")
    assert f"DAGSTER_HOME='{ROOT}'" in once
    dagster.remove_dotenv(path)
    assert path.read_text() == "MINE=1\n"


def test_the_projects_own_stack_writes_the_dotenv_of_the_project(tmp_path: Path) -> None:
    """`dagster` and `dg` find the environment where they are called; a second stack does not touch it."""
    assert dagster.dotenv(tmp_path, tmp_path / ".pipeline") == tmp_path / ".env"
    assert dagster.dotenv(tmp_path, tmp_path / "elsewhere") == tmp_path / "elsewhere" / ".env"


def test_a_dotenv_with_nothing_else_in_it_is_removed(tmp_path: Path) -> None:
    """No empty file stays behind."""
    dagster.write_dotenv(plan(tmp_path))
    dagster.remove_dotenv(tmp_path / ".env")
    dagster.remove_dotenv(tmp_path / ".env")

    assert not (tmp_path / ".env").exists()


def test_plans_do_not_show_secrets(tmp_path: Path) -> None:
    """Neither a plan nor a service has a secret in what a log would print of it."""
    made = plan(tmp_path)
    shown = repr(made) + repr(dagster.webserver(made))

    assert [name for name, secret in made.secrets.items() if secret in shown] == []
    assert isinstance(read_secret(made), SecretStr)


def read_secret(made: Plan) -> SecretStr:
    """A secret as the product reads it."""
    settings.write_settings(made)
    return read_settings(made.home).s3_secret_key
