"""The only reader of the environment: where the services are, and the secrets to reach them.

A value comes from an environment variable (`PIPELINE_…`) or, where that is not set, from `<home>/stack.env`, which the local stack writes
when it starts a service itself. Nothing has a silent default but the home folder: a missing value is an error that names all missing ones.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipeline_assets.core.errors import SettingsMissing, UserInputError

PREFIX = "PIPELINE_"
STACK_ENV = "stack.env"
MAVEN_CENTRAL = "https://repo1.maven.org/maven2"
_ENVIRONMENT = Lock()


class RestService(BaseModel):
    """Where a REST source is, and the key that opens it."""

    url: str
    api_key: SecretStr


class SchemaRegistry(BaseModel):
    """Where a schema registry is, and the user and password that open it where it asks for them (HTTP Basic)."""

    model_config = ConfigDict(frozen=True)

    url: str
    user: str | None = None
    password: SecretStr = SecretStr("")


class Settings(BaseSettings):
    """Everything the product needs to know about the world around it.

    `databases` are the sources by name, each for the role that reads batches, `replication` the same for the role that reads changes.
    `registries` are those that formats of streams name; without such there is none.
    `connect_secrets` is the path, on the machine of Kafka Connect, of the properties file that its connectors take their secrets from.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True)

    home: Path = Path(".pipeline")
    warehouse_dsn: SecretStr
    catalog_dsn: SecretStr
    dagster_dsn: SecretStr
    dagster_url: str
    mlflow_url: str
    s3_endpoint: str
    s3_region: str
    s3_bucket: str
    s3_access_key: SecretStr
    s3_secret_key: SecretStr
    kafka_bootstrap: str
    connect_url: str
    connect_secrets: str
    databases: dict[str, SecretStr]
    replication: dict[str, SecretStr]
    services: dict[str, RestService]
    registries: dict[str, SchemaRegistry] = {}


class CodeSettings(BaseSettings):
    """Which declarations a code location has.

    `use_cases` are the chosen ones by name, separated by commas (None: all) of the package `use_cases_package`, whose cleaned tables are
    models of `dbt_project`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    use_cases: Annotated[tuple[str, ...] | None, NoDecode] = None
    use_cases_package: str = "pipeline_assets.use_cases"
    dbt_project: Path = Path(__file__).resolve().parents[2] / "dbt_project"

    @field_validator("use_cases", mode="before")
    @classmethod
    def _split(cls, names: object) -> object:
        return tuple(name.strip() for name in names.split(",") if name.strip()) or None if isinstance(names, str) else names


def read_code_settings() -> CodeSettings:
    """The settings of the code location, from the environment."""
    return CodeSettings()


class Ports(BaseModel):
    """Where the services of the local stack listen on loopback; 0 picks a free port."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connect: int = Field(default=8083, ge=0, le=65535)
    dagster: int = Field(default=3000, ge=0, le=65535)
    dagster_code: int = Field(default=4266, ge=0, le=65535)
    kafka: int = Field(default=9092, ge=0, le=65535)
    kafka_controller: int = Field(default=9093, ge=0, le=65535)
    mlflow: int = Field(default=5000, ge=0, le=65535)
    postgres: int = Field(default=15432, ge=0, le=65535)
    s3: int = Field(default=9000, ge=0, le=65535)
    weather: int = Field(default=8085, ge=0, le=65535)


class StackSettings(BaseSettings):
    """What the local stack may be told: its ports, where jars come from, and which services exist already and so are not started.

    `given` holds every other `PIPELINE_…` variable of the environment, by its full name; an empty one counts as not given.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True)

    ports: Ports = Ports()
    maven_url: str = MAVEN_CENTRAL
    given: dict[str, str] = {}


def read_stack_settings() -> StackSettings:
    """The settings of the local stack; raises UserInputError naming the variable that is no port."""
    given = {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and value}
    try:
        return StackSettings(given=given)
    except ValidationError as error:
        problem = error.errors()[0]
        name = PREFIX + "__".join(str(part) for part in problem["loc"]).upper()
        raise UserInputError(
            f"{name} is {problem['input']!r}: {problem['msg']}. Set it to a port from 0 to 65535 (0 picks a free one)."
        ) from error


def environment_of_children(added: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process started from this one: its own with `added`.

    Container images like to forbid Python to keep what it compiled; that would double the time in which each service starts.
    """
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}, **added}


@contextmanager
def in_environment(added: Mapping[str, str]) -> Iterator[None]:
    """Has variables in this process's own environment, for a library that reads them nowhere else, and takes them back afterwards.

    One thread at a time: another one waits until they are gone.
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


def read_settings(home: Path) -> Settings:
    """The settings of the stack in `home`; raises SettingsMissing with the names of all that have no value."""
    try:
        return Settings(_env_file=home / STACK_ENV, home=home)
    except ValidationError as error:
        missing = [
            PREFIX + "__".join(str(part) for part in problem["loc"]).upper() for problem in error.errors() if problem["type"] == "missing"
        ]
        if not missing:
            raise
        raise SettingsMissing(missing) from error


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The settings of this process, read once."""
    return read_settings(home_folder())
