"""The settings that the stack hands out: what the environment gives stays, the rest points to the services started here."""

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline_assets.core.errors import SettingsMissing
from pipeline_assets.core.settings import PREFIX, STACK_ENV, StackSettings
from pipeline_assets.local_stack import connect, kafka, mlflow, postgres, s3, simulator
from pipeline_assets.local_stack.plan import (
    CODE,
    CONNECT,
    DAEMON,
    HOST,
    KAFKA,
    KAFKA_CONTROLLER,
    MLFLOW,
    POSTGRES,
    S3,
    WEATHER,
    WEBSERVER,
    Plan,
    load_secrets,
    write_private,
)
from pipeline_assets.local_stack.ports import free_port, holder, is_free
from pipeline_assets.local_stack.processes import family

SECRETS = (POSTGRES, *postgres.DATABASES, postgres.REPLICATION, "s3_access_key", "s3_secret_key", "weather_api_key")
AIRLINE_OPS, WEATHER_URL, WEATHER_KEY = (
    f"{PREFIX}DATABASES__AIRLINE_OPS",
    f"{PREFIX}SERVICES__WEATHER__URL",
    f"{PREFIX}SERVICES__WEATHER__API_KEY",
)
WAREHOUSE_DSN, CATALOG_DSN, DAGSTER_DSN, MLFLOW_DSN = (f"{PREFIX}{name}_DSN" for name in ("WAREHOUSE", "CATALOG", "DAGSTER", "MLFLOW"))
S3_ENDPOINT, S3_REGION, S3_BUCKET = (f"{PREFIX}S3_{name}" for name in ("ENDPOINT", "REGION", "BUCKET"))
S3_ACCESS_KEY, S3_SECRET_KEY = f"{PREFIX}S3_ACCESS_KEY", f"{PREFIX}S3_SECRET_KEY"
AIRLINE_OPS_REPLICATION = f"{PREFIX}REPLICATION__AIRLINE_OPS"
KAFKA_BOOTSTRAP, CONNECT_URL, CONNECT_SECRETS = (f"{PREFIX}{name}" for name in ("KAFKA_BOOTSTRAP", "CONNECT_URL", "CONNECT_SECRETS"))
MLFLOW_URL, DAGSTER_URL = f"{PREFIX}MLFLOW_URL", f"{PREFIX}DAGSTER_URL"
# Without a simulator the sources are those that the environment names, and these only say that there may be none.
NO_WORLD = {f"{PREFIX}{name}": "{}" for name in ("DATABASES", "REPLICATION", "SERVICES")}
# Whoever names the first of a group must name the rest as well.
GROUPS = (
    (S3_ENDPOINT, S3_REGION, S3_BUCKET, S3_ACCESS_KEY, S3_SECRET_KEY),
    (WEATHER_URL, WEATHER_KEY),
    (AIRLINE_OPS, AIRLINE_OPS_REPLICATION),
    (CONNECT_URL, CONNECT_SECRETS),
)
# A port that has not the name of the service which listens there.
OWNERS = {KAFKA_CONTROLLER: KAFKA}
# A service exists already where the environment has all of these.
POINTERS = {
    POSTGRES: (WAREHOUSE_DSN, CATALOG_DSN, DAGSTER_DSN, AIRLINE_OPS),
    S3: (S3_ENDPOINT,),
    KAFKA: (KAFKA_BOOTSTRAP,),
    CONNECT: (CONNECT_URL,),
    MLFLOW: (MLFLOW_URL,),
    WEATHER: (WEATHER_URL,),
    CODE: (DAGSTER_URL,),
    WEBSERVER: (DAGSTER_URL,),
    DAEMON: (DAGSTER_URL,),
}


def make_plan(stack: StackSettings, root: Path, home: Path) -> Plan:
    """The plan of the stack in `home`; secrets are made at the first call. Raises SettingsMissing for a half-given service."""
    missing = [name for group in GROUPS if group[0] in stack.given for name in group if name not in stack.given]
    if missing:
        raise SettingsMissing(missing)
    ports = chosen_ports(home, {name.replace("_", "-"): port for name, port in stack.ports.model_dump().items()})
    secrets = load_secrets(home, SECRETS)
    return Plan(
        root=root, home=home, ports=ports, secrets=secrets, given=stack.given, maven_url=stack.maven_url,
        settings={**made(home, ports, secrets, has_simulator=simulator.exists(root)), **stack.given},
    )  # fmt: skip


def chosen_ports(home: Path, wanted: Mapping[str, int]) -> dict[str, int]:
    """The port of each service: the wanted one; for 0 the one it had last, if it can have it again, else a free one."""
    path = home / "ports.json"
    last: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ports = {name: port if port != 0 else _again(home, name, last.get(name)) for name, port in wanted.items()}
    write_private(path, json.dumps(ports))
    return ports


def _again(home: Path, name: str, last: int | None) -> int:
    """The last port, if it is free or held by the service itself or by what a killed one left behind; else a free one."""
    if last is not None and (is_free(last) or holder(last)[0] in {process.pid for process in family(home, OWNERS.get(name, name))}):
        return last
    return free_port()


def made(home: Path, ports: Mapping[str, int], secrets: Mapping[str, str], *, has_simulator: bool) -> dict[str, str]:
    """The settings as they are if every service is started here, by full name."""
    stores = {
        WAREHOUSE_DSN: postgres.dsn(secrets, ports[POSTGRES], "warehouse"),
        CATALOG_DSN: postgres.dsn(secrets, ports[POSTGRES], "catalog"),
        DAGSTER_DSN: postgres.dsn(secrets, ports[POSTGRES], "dagster"),
        MLFLOW_DSN: postgres.dsn(secrets, ports[POSTGRES], "mlflow"),
        MLFLOW_URL: mlflow.url(ports[MLFLOW]),
        DAGSTER_URL: f"http://{HOST}:{ports[WEBSERVER]}",
        S3_ENDPOINT: s3.endpoint(ports[S3]),
        S3_REGION: s3.REGION,
        S3_BUCKET: s3.BUCKET,
        S3_ACCESS_KEY: secrets["s3_access_key"],
        S3_SECRET_KEY: secrets["s3_secret_key"],
        KAFKA_BOOTSTRAP: kafka.address(ports[KAFKA]),
        CONNECT_URL: connect.url(ports[CONNECT]),
        CONNECT_SECRETS: str(connect.secrets_file(home)),
    }
    world = {
        AIRLINE_OPS: postgres.dsn(secrets, ports[POSTGRES], "airline_ops"),
        AIRLINE_OPS_REPLICATION: postgres.dsn(secrets, ports[POSTGRES], "airline_ops", role=postgres.REPLICATION),
        WEATHER_URL: simulator.url(ports[WEATHER]),
        WEATHER_KEY: secrets["weather_api_key"],
    }
    return {**stores, **(world if has_simulator else NO_WORLD)}


def is_given(stack: StackSettings, name: str, root: Path) -> bool:
    """The environment points to this service, so it is not started."""
    pointers = [pointer for pointer in POINTERS[name] if pointer != AIRLINE_OPS or simulator.exists(root)]
    if name == POSTGRES and MLFLOW_URL not in stack.given:
        pointers.append(MLFLOW_DSN)
    return all(pointer in stack.given for pointer in pointers)


def write_settings(plan: Plan) -> Path:
    """Write `stack.env` with the settings made here; those that the environment gives are not copied."""
    path = plan.home / STACK_ENV
    write_private(path, "".join(f"{name}={value}\n" for name, value in plan.settings.items() if name not in plan.given))
    return path
