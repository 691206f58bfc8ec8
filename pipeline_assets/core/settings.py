"""The only reader of the environment: where the services are, and the secrets to reach them.

A value comes from an environment variable (`PIPELINE_…`) or, where that is not set or empty, from `<home>/stack.env`, which the local stack
writes when it starts a service itself. Only the home folder has a default. Settings are read by part: a process that needs the object store
alone reads `ObjectStoreSettings`, and misses nothing else. All missing or malformed values of a part are reported together.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, TypeVar

from pydantic import SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from pipeline_assets.core.errors import SettingsMalformed, SettingsMissing
from pipeline_assets.core.problems import MalformedSetting
from pipeline_assets.core.setting_problems import no_json, problem_of
from pipeline_assets.core.setting_values import (
    AlertUrls,
    Brokers,
    Dsn,
    FileFolder,
    HttpUrl,
    Mechanism,
    ModuleName,
    Names,
    Port,
    RestService,
    SchemaRegistry,
    Seconds,
    SecurityProtocol,
    ServerUrl,
    Share,
)
from pipeline_assets.core.state_errors import read_as_text

PREFIX = "PIPELINE_"
WAREHOUSE_DSN, CATALOG_DSN, DAGSTER_DSN, ONLINE_DSN = (f"{PREFIX}{name}_DSN" for name in ("WAREHOUSE", "CATALOG", "DAGSTER", "ONLINE"))
STACK_ENV = "stack.env"
REWRITE_STACK_ENV = "`pipeline up` writes it anew"
MAVEN_CENTRAL = "https://repo1.maven.org/maven2"
_ENVIRONMENT = Lock()
_PACKAGE = Path(__file__).resolve().parents[1]
# Where a wheel keeps the files that stand beside the package in a checkout: the dbt project, `dagster.yaml`, `workspace.yaml`.
SHIPPED = _PACKAGE / "shipped"
ROOT = SHIPPED if SHIPPED.exists() else _PACKAGE.parent


class EnvironmentSettings(BaseSettings):
    """What all settings of this module have in common: their prefix, and that an empty variable counts as none."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )


class Part(EnvironmentSettings):
    """A part of the settings; every part knows the folder of state on this machine, and what holds for all services of a kind.

    `https_authority`: a PEM file of who may sign the certificates of services at https://…, None: whom each client trusts by itself.
    `postgres_lock_seconds`: how long one waits for a lock; `postgres_statement_seconds`: how long one takes in all, waits included. 0 is
    without end. What a DSN itself sets (`options=-c lock_timeout=…`) stays.
    """

    home: Path = Path(".pipeline")
    https_authority: Path | None = None
    postgres_lock_seconds: Seconds = 300.0
    postgres_statement_seconds: Seconds = 21_600.0


class WarehouseSettings(Part):
    """The warehouse database, which also has the ledger of promotions."""

    warehouse_dsn: Dsn


class OnlineSettings(Part):
    """The database of the online store; with `online_valkey` the server that has a copy of its states, and answers instead of it."""

    online_dsn: Dsn
    online_valkey: ServerUrl | None = None


class ObjectStoreSettings(Part):
    """The object store."""

    s3_endpoint: HttpUrl
    s3_region: str
    s3_bucket: str
    s3_access_key: SecretStr
    s3_secret_key: SecretStr


class LakeSettings(ObjectStoreSettings):
    """The lake: its tables on the object store, its catalog in a database."""

    catalog_dsn: Dsn


class DatabaseSettings(Part):
    """The databases that batches are read from, by name, each for a role that needs to do no more than `select`."""

    databases: dict[str, Dsn]


class ServiceSettings(Part):
    """The REST APIs that batches are read from, by name."""

    services: dict[str, RestService]


class FolderSettings(Part):
    """The folders that files are read from, by name."""

    folders: dict[str, FileFolder] = {}


class SourceSettings(DatabaseSettings, ServiceSettings, FolderSettings):
    """The outside systems that batches are read from."""


class BrokerSettings(Part):
    """Kafka's brokers, and how clients log in; authority: a PEM file of who may sign their certificates, None: whom the machine trusts."""

    kafka_bootstrap: Brokers
    kafka_security_protocol: SecurityProtocol = "PLAINTEXT"
    kafka_mechanism: Mechanism = "SCRAM-SHA-512"
    kafka_user: str | None = None
    kafka_password: SecretStr | None = None
    kafka_authority: Path | None = None


class StreamSettings(BrokerSettings):
    """Kafka, Kafka Connect and what they read.

    `connect_user` and `connect_password`: how to log in to Kafka Connect's REST interface, where it asks for that. `replication`: the
    databases that are followed, by name, each for the role that reads changes. `owners`: the same for the role that owns the tables, which
    publishes them; where a database has none, its role in `databases` does. `registries`: the schema registries that formats of streams
    name.
    """

    connect_url: HttpUrl
    connect_user: str | None = None
    connect_password: SecretStr | None = None
    replication: dict[str, Dsn]
    owners: dict[str, Dsn] = {}
    registries: dict[str, SchemaRegistry] = {}


class PredictionSettings(WarehouseSettings, OnlineSettings, ObjectStoreSettings, BrokerSettings):
    """What the prediction service needs: the ledger, the online store, packages, and where it logs what it has answered."""


class ServiceAddress(Part):
    """Where the prediction service is."""

    serve_url: HttpUrl


class ServiceReader(ServiceAddress):
    """The same for whoever watches it, with a key of the role `read`."""

    serve_read_key: SecretStr


class TrackingSettings(Part):
    """The MLflow server, and how to log in to it, where it asks for that."""

    mlflow_url: HttpUrl
    mlflow_user: str | None = None
    mlflow_password: SecretStr | None = None


class DagsterKey(Part):
    """A key of the role operator, where Dagster's web server has a login."""

    dagster_key: SecretStr | None = None


class DagsterAddress(Part):
    """Where Dagster's web server is."""

    dagster_url: HttpUrl


class DagsterSettings(DagsterKey, DagsterAddress):
    """Dagster's database, and the address of its web server."""

    dagster_dsn: Dsn


class Settings(WarehouseSettings, OnlineSettings, LakeSettings, SourceSettings, StreamSettings, TrackingSettings, DagsterSettings):
    """All parts: what the code location and the command line need."""


class AccessSettings(Part):
    """Who may ask the prediction service.

    `serve_keys` is the file of API keys (`<home>/serve-keys.json` where it is not set), `serve_audit_file` where the audit log goes instead
    of standard output. With `serve_oidc_issuer` bearer tokens of that identity provider are taken that are for `serve_oidc_audience` and
    name roles in `serve_oidc_role_claim`.
    """

    serve_keys: Path | None = None
    serve_audit_file: Path | None = None
    serve_oidc_issuer: HttpUrl | None = None
    serve_oidc_audience: str | None = None
    serve_oidc_role_claim: str = "roles"

    @property
    def keys_file(self) -> Path:
        """The file of API keys."""
        return self.serve_keys if self.serve_keys is not None else self.home / "serve-keys.json"


class WebSettings(Part):
    """Dagster's web server: `web_hosts` are the names that it answers for beside this machine's own, separated by commas.

    `web_audit_file`: where the audit log goes instead of standard output. `web_login`: only those are answered who have a key, a token or a
    session as the prediction service knows them, with the role viewer or operator. `web_certificate`, `web_certificate_key`: for TLS.
    """

    web_hosts: Annotated[Names, NoDecode] = ()
    web_login: bool = False
    web_certificate: Path | None = None
    web_certificate_key: Path | None = None
    web_audit_file: Path | None = None


class AlertSettings(DagsterAddress):
    """Who is alerted, by the URLs of Apprise: of everyone, or by owner, with `*` for all who have none of their own.

    `alert_urls` is a list of URLs between blanks, or a JSON object of such lists by owner. None: nobody is alerted.
    """

    alert_urls: Annotated[AlertUrls, NoDecode] = {}


class CodeSettings(EnvironmentSettings):
    """Which declarations a code location has.

    `use_cases` are the chosen ones by name, separated by commas (None: all) of the package `use_cases_package`, whose cleaned tables are
    models of `dbt_project`.
    """

    use_cases: Annotated[tuple[str, ...] | None, NoDecode] = None
    use_cases_package: ModuleName = "pipeline_assets.use_cases"
    dbt_project: Path = ROOT / "dbt_project"

    @field_validator("use_cases", mode="before")
    @classmethod
    def _listed(cls, names: object) -> object:
        return tuple(name.strip() for name in names.split(",") if name.strip()) or None if isinstance(names, str) else names

    @field_validator("dbt_project")
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        return folder.resolve()


class WorkerSettings(EnvironmentSettings):
    """The settings of a stream worker itself: the port on loopback where Prometheus finds its metrics, None for none."""

    online_metrics_port: Port | None = None


class ServeSettings(EnvironmentSettings):
    """The settings of the prediction service itself: where it listens, how many processes answer, and its certificate for TLS.

    features_ms: how long an answer waits for the online store before it does without. otlp_url: where spans are sent (None: nowhere);
    otlp_share: of requests whose callers do not say whether theirs are recorded, how many are.
    """

    serve_host: str = "127.0.0.1"
    serve_port: Port = 8700
    serve_workers: int = 1
    serve_certificate: Path | None = None
    serve_certificate_key: Path | None = None
    serve_features_ms: int = 150
    serve_otlp_url: HttpUrl | None = None
    serve_otlp_share: Share = 1.0


class StackSettings(EnvironmentSettings):
    """The settings of the local stack itself: ports by service, where jars come from, and which services exist elsewhere.

    `ports` are those that were chosen; the others are the defaults of their services. `given` holds every non-empty `PIPELINE_…` variable
    of the environment by its full name. `run_wait_seconds`: how long a restart waits for runs that have begun, before it cancels them.
    """

    ports: dict[str, Port] = {}
    maven_url: HttpUrl = MAVEN_CENTRAL
    run_wait_seconds: Seconds = 600.0
    given: dict[str, str] = {}


S = TypeVar("S", bound=EnvironmentSettings)
P = TypeVar("P", bound=Part)


def read_part(part: type[P], home: Path) -> P:
    """The settings of one part for the stack in `home`, and of no other.

    Raises SettingsMalformed with every value that cannot be used, else SettingsMissing with every one that there is not, and
    StateFileDamaged where `stack.env` cannot be read.
    """
    with read_as_text(home / STACK_ENV, REWRITE_STACK_ENV):
        return _read(part, _env_file=home / STACK_ENV, home=home)


def read_settings(home: Path) -> Settings:
    """The settings of all parts; raises as `read_part`. Nobody changes them: they are those of the last call where nothing changed."""
    stamp = None
    with suppress(FileNotFoundError):
        found = (home / STACK_ENV).stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
    return _settings_as_of(home, stamp, frozenset((name, value) for name, value in os.environ.items() if name.upper().startswith(PREFIX)))


# To read them takes 8 ms, which is a tenth of what a look of a sensor takes.
@lru_cache(maxsize=2)
def _settings_as_of(home: Path, stamp: object, environment: object) -> Settings:  # noqa: ARG001 - by them it is known whether they are the same
    return read_part(Settings, home)


def read_code_settings() -> CodeSettings:
    """The settings of the code location, from the environment; raises SettingsMalformed."""
    code = _read(CodeSettings)
    if not (code.dbt_project / "dbt_project.yml").exists():
        expected = "the folder of a dbt project, with a dbt_project.yml"
        shown = MalformedSetting(f"{PREFIX}DBT_PROJECT", "is no dbt project", expected, str(code.dbt_project))
        raise SettingsMalformed([shown])
    return code


def read_own(settings: type[S]) -> S:
    """The settings of a process itself; raises SettingsMalformed."""
    return _read(settings)


def read_stack_settings() -> StackSettings:
    """The settings of the local stack; raises SettingsMalformed."""
    given = {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and value}
    return _read(StackSettings, given=given)


def _read(settings: type[S], **values: Any) -> S:
    """Settings from the environment. The error never has the one of pydantic as its cause or context: that one shows values."""
    problem: SettingsMissing | SettingsMalformed
    try:
        return settings(**values)
    except ValidationError as error:
        problem = problem_of(error, PREFIX)
    except SettingsError as error:
        problem = SettingsMalformed([no_json(error, PREFIX)])
    raise problem


def environment_of_children(added: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process started from this one: its own with `added`.

    Container images often set PYTHONDONTWRITEBYTECODE; that would double the time in which each service starts.
    """
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}, **added}


@contextmanager
def in_environment(added: Mapping[str, str]) -> Iterator[None]:
    """Sets variables in this process's own environment, for a library that reads them nowhere else, and restores them afterwards.

    One thread at a time: another one waits until they are restored.
    """
    with _ENVIRONMENT:
        before = {name: os.environ.get(name) for name in added}
        os.environ.update(added)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def home_folder() -> Path:
    """The folder of the local stack and of all state on this machine (`PIPELINE_HOME`, else `.pipeline`), as an absolute path."""
    return Path(os.environ.get(f"{PREFIX}HOME", ".pipeline")).resolve()


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The settings of this process, read once."""
    return read_settings(home_folder())
