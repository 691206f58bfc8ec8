"""Kafka Connect's REST interface: connectors are put there, looked at, restarted and deleted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.core.http_errors import http_errors, is_transient
from pipeline_assets.core.https import verification
from pipeline_assets.core.settings import PREFIX, Settings

if TYPE_CHECKING:
    import httpx

ATTEMPTS, LONGEST_SECONDS, ANSWER_SECONDS = 8, 60.0, 30.0
# While its group rebalances, a worker answers that there is a conflict, and means: later.
REBALANCING = frozenset({int(HTTPStatus.CONFLICT)})
RUNNING, FAILED, UNASSIGNED = "RUNNING", "FAILED", "UNASSIGNED"


@dataclass(frozen=True, kw_only=True)
class Status:
    """State and trace of a connector and of each of its tasks, by number; the trace is empty unless it failed."""

    state: str
    trace: str
    tasks: Mapping[int, tuple[str, str]]

    @property
    def is_running(self) -> bool:
        """The connector and its tasks, of which there is at least one, are running. That alone does not mean that they make progress."""
        return self.state == RUNNING and bool(self.tasks) and all(state == RUNNING for state, _ in self.tasks.values())

    @property
    def failed_tasks(self) -> list[int]:
        """The numbers of the tasks that failed."""
        return [number for number, (state, _) in self.tasks.items() if state == FAILED]


UNTAKEN = Status(state=UNASSIGNED, trace="", tasks={})


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All connectors at one moment, by name: their configurations, and the states of those that a worker has taken up."""

    configs: Mapping[str, dict[str, str]] = field(default_factory=dict)
    statuses: Mapping[str, Status] = field(default_factory=dict)

    def connectors(self) -> list[str]:
        """As `Connect.connectors`."""
        return sorted(self.configs)

    def config(self, name: str) -> dict[str, str]:
        """As `Connect.config`."""
        return self.configs[name]

    def status(self, name: str) -> Status:
        """As `Connect.status`."""
        return self.statuses.get(name, UNTAKEN)


@dataclass(frozen=True, kw_only=True)
class Connect:
    """The Kafka Connect behind `client`; each call is repeated while the worker says that it is not ready.

    Calls raise SourceUnavailable when it does not answer in time, SourceRefused for an answer that asking again would not change.
    """

    client: "httpx.Client"

    def plugins(self) -> set[str]:
        """The classes of the connectors that the worker can run."""
        return {each["class"] for each in self._ask("GET", "/connector-plugins")}

    def connectors(self) -> list[str]:
        """The names of all connectors."""
        return sorted(self._ask("GET", "/connectors"))

    def overview(self) -> Overview:
        """All connectors, by two requests however many there are."""
        infos, states = (self._ask("GET", f"/connectors?expand={what}") for what in ("info", "status"))
        return Overview(
            configs={name: dict(each["info"]["config"]) for name, each in infos.items()},
            statuses={name: _status(each["status"]) for name, each in states.items()},
        )

    def put(self, name: str, config: Mapping[str, str]) -> None:
        """Have the connector with this configuration; nothing happens to one that has it already."""
        if name in self.connectors() and self.config(name) == {**config, "name": name}:
            return
        self._ask("PUT", f"{_path(name)}/config", dict(config))

    def config(self, name: str) -> dict[str, str]:
        """The configuration of a connector, as it was put."""
        return dict(self._ask("GET", f"{_path(name)}/config"))

    def status(self, name: str) -> Status:
        """How a connector is doing; one that was just put and that no worker has taken up yet is UNASSIGNED and has no tasks."""
        try:
            found = self._ask("GET", f"{_path(name)}/status")
        except SourceRefused:
            if name not in self.connectors():
                raise
            return UNTAKEN
        return _status(found)

    def restart_failed(self, name: str) -> list[int]:
        """Restart what failed of a connector; the numbers of the failed tasks."""
        status = self.status(name)
        if status.state == FAILED or status.failed_tasks:
            self._ask("POST", f"{_path(name)}/restart?includeTasks=true&onlyFailed=true")
        return status.failed_tasks

    def offsets(self, name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """How far a connector has committed: pairs of a partition and the offset in it, in the connector's own terms."""
        return [(each["partition"], each["offset"]) for each in self._ask("GET", f"{_path(name)}/offsets")["offsets"]]

    def delete(self, name: str) -> None:
        """Delete a connector; one that does not exist is no error. Its offsets stay."""
        if name in self.connectors():
            self._ask("DELETE", _path(name))

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        import stamina

        is_passing = partial(is_transient, also=REBALANCING)
        retrying = stamina.retry(on=is_passing, attempts=ATTEMPTS, timeout=LONGEST_SECONDS, wait_initial=0.2, wait_max=5.0)
        with http_errors("Kafka Connect", REBALANCING):
            answer = retrying(self._send)(method, path, body)
        return answer.json() if answer.content else None

    def _send(self, method: str, path: str, body: dict[str, str] | None) -> "httpx.Response":
        return self.client.request(method, path, json=body).raise_for_status()


@contextmanager
def open_connect(settings: Settings) -> Iterator[Connect]:
    """Kafka Connect with its connections, which are closed when the block ends; raises SettingsMalformed for its certificate."""
    import httpx

    user, password = settings.connect_user, settings.connect_password
    login = (user, password.get_secret_value()) if user is not None and password is not None else None
    verify = verification(f"{PREFIX}CONNECT_URL", settings.connect_url, settings)
    with httpx.Client(base_url=settings.connect_url, timeout=ANSWER_SECONDS, auth=login, verify=verify) as client:
        yield Connect(client=client)


def _path(name: str) -> str:
    return f"/connectors/{quote(name, safe='')}"


def _status(found: Mapping[str, Any]) -> Status:
    tasks = {int(task["id"]): (str(task["state"]), str(task.get("trace", ""))) for task in found["tasks"]}
    return Status(state=found["connector"]["state"], trace=found["connector"].get("trace", ""), tasks=tasks)
