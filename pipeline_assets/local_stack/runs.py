"""Starts runs on the live Dagster of the stack and follows them, through the GraphQL interface that its own web page uses."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from pipeline_assets.core import names
from pipeline_assets.core.errors import PipelineError
from pipeline_assets.local_stack.http import key_header
from pipeline_assets.local_stack.restart import CANCEL

POLL_SECONDS = 1.0
ANSWER_SECONDS = 180.0
PAGE = 500
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PythonError { message }
    ... on PipelineNotFoundError { message }
  }
}"""
UNFINISHED = """
query Unfinished($job: String!) {
  runsOrError(filter: {pipelineName: $job, statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]}) {
    ... on Runs { results { runId } }
  }
}"""
REQUESTED = """
query Requested($sensor: String!, $since: Float!) {
  runsOrError(filter: {tags: [{key: "dagster/sensor_name", value: $sensor}], createdAfter: $since}) {
    ... on Runs { results { runId } }
  }
}"""
CURSOR = """
query Cursor($sensor: SensorSelector!) {
  sensorOrError(sensorSelector: $sensor) {
    ... on Sensor { sensorState { typeSpecificData { ... on SensorData { lastCursor } } } }
  }
}"""
NEWEST_METADATA = """
query NewestMetadata($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) {
    ... on AssetNode {
      assetMaterializations(limit: 1) { metadataEntries { label ... on TextMetadataEntry { text } ... on IntMetadataEntry { intValue } } }
    }
  }
}"""
NEWEST = "query Newest { assetNodes { assetKey { path } isMaterializable assetMaterializations(limit: 1) { runId } } }"
POOLS = "query Pools { assetNodes { pools } instance { concurrencyLimits { concurrencyKey } } }"
LIMIT = "mutation Limit($pool: String!, $limit: Int!) { setConcurrencyLimit(concurrencyKey: $pool, limit: $limit) }"
EVENTS = """
query Events($run: ID!, $cursor: String, $limit: Int) {
  runOrError(runId: $run) { ... on Run { status } }
  logsForRun(runId: $run, afterCursor: $cursor, limit: $limit) {
    ... on EventConnection {
      cursor hasMore
      events {
        __typename
        ... on MessageEvent { message timestamp stepKey }
        ... on MaterializationEvent {
          assetKey { path } partition
          metadataEntries {
            label
            ... on IntMetadataEntry { intValue }
            ... on FloatMetadataEntry { floatValue }
            ... on UrlMetadataEntry { url }
            ... on JsonMetadataEntry { jsonString }
          }
        }
        ... on AssetCheckEvaluationEvent { evaluation {
          assetKey { path } checkName success severity metadataEntries { label ... on IntMetadataEntry { intValue } }
        } }
        ... on ExecutionStepFailureEvent { error { message causes { message } } }
      }
    }
  }
}"""


class RunFailed(PipelineError):
    """A run of the asset graph did not succeed."""

    def __init__(self, job: str, run_id: str, url: str, why: str) -> None:
        self.job, self.run_id, self.url, self.why = job, run_id, url, why
        super().__init__(
            f"Job '{job}' failed in run {run_id}: {why}. See {url}/runs/{run_id}, fix the cause, then run the same command again."
        )


@dataclass(frozen=True, kw_only=True)
class Materialized:
    """One partition of an asset (or the asset, where it has none) was materialized; the newest also has the sums of its run, by name."""

    asset: str
    partition: str | None
    numbers: Mapping[str, float]
    urls: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A check of an asset was evaluated; `numbers` are the whole ones of its metadata."""

    asset: str
    check: str
    passed: bool
    severity: str
    numbers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepEnded:
    """A step succeeded, after so many seconds."""

    step: str
    seconds: float


RunEvent = Materialized | Checked | StepEnded


class Dagster:
    """The live Dagster at `url`, with one code location."""

    def __init__(self, url: str, location: str, key: str | None = None) -> None:
        self.url, self._location, self._headers = url.rstrip("/"), location, key_header(key)

    def launch(self, job: str, days: tuple[date, date] | None, ops: Mapping[str, Mapping[str, object]]) -> str:
        """The id of a new run of `job` over `days` (inclusive), with the configuration of its ops by name; raises RunFailed if refused."""
        tags = [{"key": name, "value": value} for name, value in (names.range_tags(*days) if days else {}).items()]
        selector = {"repositoryLocationName": self._location, "repositoryName": "__repository__", "pipelineName": job}
        config = {"ops": {name: {"config": dict(values)} for name, values in ops.items()}}
        params = {"selector": selector, "runConfigData": config, "mode": "default", "executionMetadata": {"tags": tags}}
        answer = self._ask(LAUNCH, {"params": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise RunFailed(job, "(not launched)", self.url, str(answer.get("message") or answer.get("errors")))
        return str(answer["run"]["runId"])

    def is_built(self, prefix: str) -> bool:
        """Whether every asset whose key begins with `prefix` has been materialized at some time."""
        nodes = self._ask(NEWEST, {})["assetNodes"]
        return all(node["assetMaterializations"] for node in nodes if node["isMaterializable"] and node["assetKey"]["path"][0] == prefix)

    def requested(self, sensor: str, since: float) -> list[str]:
        """The runs that a sensor has requested since a time (seconds of the epoch), the first one first."""
        found = self._ask(REQUESTED, {"sensor": sensor, "since": since})["runsOrError"]["results"]
        return [str(run["runId"]) for run in reversed(found)]

    def cursor(self, sensor: str) -> str | None:
        """The cursor of a sensor: up to where it has looked."""
        selector = {"repositoryLocationName": self._location, "repositoryName": "__repository__", "sensorName": sensor}
        state = self._ask(CURSOR, {"sensor": selector})["sensorOrError"]["sensorState"]
        return (state["typeSpecificData"] or {}).get("lastCursor")

    def newest_metadata(self, asset: Sequence[str]) -> dict[str, str | int]:
        """The texts and whole numbers in the metadata of the newest materialization of an asset; none where there is no such."""
        found = self._ask(NEWEST_METADATA, {"asset": {"path": list(asset)}})["assetNodeOrError"].get("assetMaterializations", [])
        entries = [entry for one in found for entry in one["metadataEntries"]]
        return {entry["label"]: entry.get("text", entry.get("intValue")) for entry in entries if {"text", "intValue"} & entry.keys()}

    def unfinished(self, job: str) -> list[str]:
        """The runs of `job` that have not ended, one whose process was killed included."""
        return [str(run["runId"]) for run in self._ask(UNFINISHED, {"job": job})["runsOrError"]["results"]]

    def ensure_pools(self, limit: int) -> None:
        """Sets the limit of every pool of the code location that has none yet.

        Otherwise two runs that are the first to use a pool both create it, and on Postgres one of them fails.
        """
        found = self._ask(POOLS, {})
        known = {each["concurrencyKey"] for each in found["instance"]["concurrencyLimits"]}
        for pool in sorted({pool for node in found["assetNodes"] for pool in node["pools"]} - known):
            self._ask(LIMIT, {"pool": pool, "limit": limit})

    def cancel_unfinished(self, job: str) -> int:
        """Cancels every run of `job` that has not ended, one whose process was killed included, and returns their number.

        Such a run would hold its place in the queue forever.
        """
        found = self.unfinished(job)
        if found:
            self._ask(CANCEL, {"runs": found})
        return len(found)

    def follow(self, job: str, run_id: str) -> Iterator[RunEvent]:
        """The events of a run as they come, until it has ended; raises RunFailed where it did not succeed."""
        cursor, started, why = None, {}, "it was cancelled or its process ended"
        while True:
            page = self._ask(EVENTS, {"run": run_id, "cursor": cursor, "limit": PAGE})
            cursor = page["logsForRun"]["cursor"]
            for event in page["logsForRun"]["events"]:
                if event["__typename"] == "ExecutionStepFailureEvent":
                    why = _cause(event)
                if event["__typename"] == "ExecutionStepStartEvent":
                    started[event["stepKey"]] = float(event["timestamp"])
                yield from events_of(event, started)
            if page["runOrError"]["status"] in ENDED and not page["logsForRun"]["events"]:
                break
            if not page["logsForRun"]["hasMore"]:
                time.sleep(POLL_SECONDS)
        if page["runOrError"]["status"] != "SUCCESS":
            raise RunFailed(job, run_id, self.url, why)

    def _ask(self, query: str, variables: Mapping[str, object]) -> dict[str, Any]:
        import httpx

        answer = httpx.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, headers=self._headers, timeout=ANSWER_SECONDS
        )
        answer.raise_for_status()
        content = answer.json()
        if content.get("errors"):
            raise RunFailed("graphql", "(none)", self.url, str(content["errors"][0]["message"]))
        return dict(content["data"])


def events_of(event: Mapping[str, Any], started: Mapping[str, float]) -> Iterator[RunEvent]:
    """What an event of Dagster's log reports of materializations, checks and steps; nothing for all other kinds."""
    match event["__typename"]:
        case "MaterializationEvent":
            entries = event["metadataEntries"]
            sums: dict[str, Any] = next((json.loads(entry["jsonString"]) for entry in entries if entry["label"] == names.OF_RUN), {})
            # Its newest day has figures of the same names, which are those of that day alone.
            numbers = {entry["label"]: entry.get("intValue", entry.get("floatValue")) for entry in entries} | sums
            yield Materialized(
                asset="/".join(event["assetKey"]["path"]),
                partition=event["partition"],
                numbers={label: value for label, value in numbers.items() if isinstance(value, (int, float))},
                urls={entry["label"]: entry["url"] for entry in entries if "url" in entry},
            )
        case "AssetCheckEvaluationEvent":
            found = event["evaluation"]
            asset = "/".join(found["assetKey"]["path"])
            numbers = {entry["label"]: entry["intValue"] for entry in found["metadataEntries"] if "intValue" in entry}
            yield Checked(asset=asset, check=found["checkName"], passed=found["success"], severity=found["severity"], numbers=numbers)
        case "ExecutionStepSuccessEvent":
            seconds = (float(event["timestamp"]) - started.get(event["stepKey"], float(event["timestamp"]))) / 1000
            yield StepEnded(step=event["stepKey"], seconds=seconds)


def _cause(event: Mapping[str, Any]) -> str:
    """The first cause of a step's failure: the product's own sentence, not the framework's frame around it."""
    error = event["error"]
    innermost = error["causes"][-1]["message"] if error["causes"] else error["message"]
    return f"{event['stepKey']}: {str(innermost).strip()}"
