"""The sensor that alerts people: it reads what runs, checks and the ledger recorded since its last look, and sends what is new."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from pipeline_assets.alerts import outbox
from pipeline_assets.alerts.events import CHOSEN, Pages, causes_of, of_check, of_decision, of_run
from pipeline_assets.alerts.incidents import AWAITED, Finding, Incident, News, counted, decided, dumped, finding_of, incident_of, observed
from pipeline_assets.alerts.outbox import Waiting, dumped_outbox, outbox_of
from pipeline_assets.core import names
from pipeline_assets.core.errors import PipelineError
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, cursor_of
from pipeline_assets.core.retries import WILL_RETRY, Asked, covers, due_at
from pipeline_assets.core.settings import AlertSettings, WarehouseSettings, home_folder, read_part

SECONDS = 60
MOST_EVENTS, MOST_DECISIONS = 500, 50
# After so long without a look it begins anew: what came and went meanwhile is no news.
PAUSE = timedelta(days=1)
LOOKED_FOR = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS, dg.DagsterEventType.ASSET_CHECK_EVALUATION)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the cursor has: up to which event and entry of the ledger all was read (None: nothing yet), when, what is open and what waits.

    `awaited` are failures of runs that are tried again: they count once nobody did.

    `newest` was the last event at the last look. One with a lower number may come later still, as its transaction was open: those between
    `event` and `newest` are looked at once more, without those that were `read`.
    """

    looked_at: datetime | None = None
    event: int | None = None
    newest: int = 0
    read: tuple[int, ...] = ()
    entry: int | None = None
    open: Mapping[str, Incident] = field(default_factory=dict)
    awaited: Mapping[str, Finding] = field(default_factory=dict)
    waiting: Mapping[str, Waiting] = field(default_factory=dict)


def alerts(project: Project) -> dg.SensorDefinition:
    """Sends news of runs, checks and decisions to the endpoints of their owners; without endpoints it looks at nothing.

    It begins with what comes after its first look, or its first after a pause. At rest a look is one query of the event log and one of the
    ledger.
    """

    @dg.sensor(
        name=names.ALERTS,
        # It requests no run; a sensor has to name something that it could.
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends failed runs, failed checks and decisions about models to PIPELINE_ALERT_URLS, once per cause until it is over.",
    )
    def watched(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        home = Path(platform.home) if platform.home else home_folder()
        settings = read_part(AlertSettings, home)
        urls = {owner: [url.get_secret_value() for url in each] for owner, each in settings.alert_urls.items()}
        if not any(urls.values()):
            return dg.SkipReason("PIPELINE_ALERT_URLS names nobody to alert.")
        return _look(context, project, read_part(WarehouseSettings, home), urls, Pages(url=settings.dagster_url))

    return watched


def _look(
    context: dg.SensorEvaluationContext, project: Project, warehouse: WarehouseSettings, urls: Mapping[str, Sequence[str]], pages: Pages
) -> dg.SensorResult:
    now = datetime.now(UTC)
    before = _after_pause(_memory(cursor_of(context, _memory)), now)
    memory, findings = _findings(context, before, pages)
    entry, decisions = _decisions(context, project, warehouse, before.entry, pages)
    count, awaited = counted(before.awaited, findings, now)
    known, news = observed(before.open, count, now)
    waiting = outbox.put(before.waiting, [*news, *decisions], urls)
    waiting, problems = _sent(waiting, urls, pages, now)
    for endpoint, problem in problems.items():
        context.log.warning("Endpoint %s did not take its alerts: %s. They wait for the next try.", endpoint, problem)
    for endpoint, one in waiting.items():
        if one.lost > before.waiting.get(endpoint, Waiting()).lost:
            context.log.error("%d alerts for endpoint %s are lost: too many waited, or for too long.", one.lost, endpoint)
    memory = replace(memory, looked_at=now, entry=entry, open=known, awaited=awaited, waiting=waiting)
    sent = len(news) + len(decisions)
    return dg.SensorResult(cursor=_dumped(memory), skip_reason=f"{sent} news; {len(known)} causes are open, {len(waiting)} endpoints wait.")


def _after_pause(memory: Memory, now: datetime) -> Memory:
    """The memory to go on with: after a pause nothing but what endpoints have yet to get."""
    is_old = memory.looked_at is not None and now - memory.looked_at > PAUSE
    return Memory(waiting=memory.waiting) if is_old else memory


def _sent(
    waiting: dict[str, Waiting], urls: Mapping[str, Sequence[str]], pages: Pages, now: datetime
) -> tuple[dict[str, Waiting], dict[str, str]]:
    """What still waits once all that is due was sent, and why, by endpoint."""
    from pipeline_assets.alerts.send import Order, sent

    by_name = {outbox.endpoint_of(url): url for each in urls.values() for url in each}
    messages = {endpoint: outbox.message(waiting[endpoint], pages.url) for endpoint in outbox.due(waiting, now)}
    if not messages:
        return waiting, {}
    answers = sent([Order(endpoint=name, url=by_name[name], message=one) for name, one in messages.items()])
    for endpoint, problem in answers.items():
        waiting = outbox.delivered(waiting, endpoint) if problem is None else outbox.failed(waiting, endpoint, now)
    return waiting, {endpoint: problem for endpoint, problem in answers.items() if problem is not None}


def _findings(context: dg.SensorEvaluationContext, before: Memory, pages: Pages) -> tuple[Memory, list[Finding]]:
    """The memory after this look, and what events said since the one before; nothing at the first look."""
    log = context.instance.event_log_storage
    newest = log.get_maximum_record_id() or 0
    if before.event is None or newest == before.event:
        return replace(before, event=newest, newest=newest, read=()), []
    of_kinds = [log.get_logs_for_all_runs_by_log_id(before.event, kind, MOST_EVENTS) for kind in LOOKED_FOR]
    # Beyond what the limit cut off, the other kinds wait for the next look.
    last = min([newest, *(max(found) for found in of_kinds if len(found) >= MOST_EVENTS)])
    found = {number: entry for of_kind in of_kinds for number, entry in of_kind.items() if number <= last}
    event = min(before.newest, last)
    memory = replace(before, event=event, newest=last, read=tuple(sorted(number for number in found if number > event)))
    new = sorted(found.keys() - set(before.read))
    failed, findings = {cause: one.run for cause, one in _known(before)}, list[Finding]()
    for number in new:
        for finding in _of_event(context, found[number], failed, pages):
            findings.append(finding)
            failed[finding.cause] = finding.run
    return memory, findings


def _known(memory: Memory) -> Iterator[tuple[str, Finding]]:
    """The causes that are open or awaited, with what was found last."""
    yield from ((cause, one.finding) for cause, one in memory.open.items())
    yield from memory.awaited.items()


def _of_event(context: dg.SensorEvaluationContext, entry: dg.EventLogEntry, failed: Mapping[str, str], pages: Pages) -> Iterator[Finding]:
    at, event = datetime.fromtimestamp(entry.timestamp, UTC), entry.get_dagster_event()
    if entry.dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        found = event.asset_check_evaluation_data
        yield of_check(
            found.asset_key.path,
            found.check_name,
            at,
            passed=found.passed,
            is_warning=found.severity == dg.AssetCheckSeverity.WARN,
            said={"description": found.description or ""} | {name: str(value.value) for name, value in found.metadata.items()},
            owners=_owners(context, [found.asset_key]),
            pages=pages,
        )
    else:
        yield from _of_run(context, entry, at, failed, pages)


def _of_run(
    context: dg.SensorEvaluationContext, entry: dg.EventLogEntry, at: datetime, failed: Mapping[str, str], pages: Pages
) -> Iterator[Finding]:
    """What the end of a run says; one that failed and is asked for again counts where that did not come, as its sensor was off.

    One that worked ends the causes of all failed runs, by id, whose days and assets it made.
    """
    found = context.instance.get_run_by_id(entry.run_id)
    if found is None:
        return
    run = _asked(found, at)
    if entry.dagster_event_type == dg.DagsterEventType.RUN_SUCCESS:
        for cause in [cause for cause in failed if cause.startswith(causes_of(run.job))]:
            before = context.instance.get_run_by_id(failed[cause])
            if before is None or covers(run, _asked(before, at)):
                yield Finding(cause=cause, is_bad=False, at=at)
    elif run.tags.get(WILL_RETRY) != "true":
        step, failure = _failure(context, entry)
        due = due_at(run) if run.job != CHOSEN else None
        owners = _owners(context, sorted(found.asset_selection or []), step)
        yield of_run(run, at, failure, owners=owners, pages=pages, counts_at=None if due is None else due + AWAITED)


def _asked(run: dg.DagsterRun, at: datetime) -> Asked:
    chosen = run.asset_selection
    assets = frozenset(asset.to_user_string() for asset in chosen) if chosen else None
    return Asked(run_id=run.run_id, job=run.job_name, tags=run.tags, made_at=at, changed_at=at, assets=assets)


def _failure(context: dg.SensorEvaluationContext, entry: dg.EventLogEntry) -> tuple[str | None, str]:
    """The step that failed first, and why; of a run that no step failed, what Dagster says."""
    failed = context.instance.get_records_for_run(entry.run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1).records
    if not failed:
        return None, entry.get_dagster_event().message or "It ended without a step that failed."
    step = failed[0].event_log_entry.get_dagster_event()
    error = step.step_failure_data.error
    reason = "" if error is None else (error.cause or error).message
    return step.step_key, f"{step.step_key}: {reason.strip()}"


def _owners(context: dg.SensorEvaluationContext, assets: Sequence[dg.AssetKey], step: str | None = None) -> list[str]:
    """Who owns assets, as they are declared: those of the step that failed, else all."""
    repository = context.repository_def
    if repository is None:
        return []
    graph = repository.asset_graph
    of_step = [key for key in graph.get_all_asset_keys() if "__".join(key.path) == step]
    return sorted({owner for key in of_step or assets if graph.has(key) for owner in graph.get(key).owners})


def _decisions(
    context: dg.SensorEvaluationContext, project: Project, settings: WarehouseSettings, after: int | None, pages: Pages
) -> tuple[int | None, list[News]]:
    """The last entry of the ledger that was read, and what is said of those since the one before; nothing where the warehouse is away."""
    from psycopg import OperationalError

    from pipeline_assets.core.connections import warehouse
    from pipeline_assets.model_lifecycle.registry import ledger

    owners = {model.name: (model.owner,) for model in project.models}
    try:
        with warehouse(settings) as connection:
            if after is None:
                return ledger.newest(connection), []
            found = ledger.decided_after(connection, after, MOST_DECISIONS)
    except (PipelineError, OperationalError) as error:
        context.log.warning("The ledger cannot be read: %s", error)
        return after, []
    news = [decided(of_decision(model, entry, owners.get(model, ()), pages)) for _, model, entry in found]
    return max([after, *(number for number, _, _ in found)]), news


def _memory(cursor: Mapping[str, Any]) -> Memory:
    looked_at = cursor.get("looked_at")
    return Memory(
        looked_at=None if looked_at is None else datetime.fromisoformat(looked_at),
        event=None if cursor.get("event") is None else int(cursor["event"]),
        newest=int(cursor.get("newest", 0)),
        read=tuple(map(int, cursor.get("read", ()))),
        entry=None if cursor.get("entry") is None else int(cursor["entry"]),
        open={cause: incident_of(one) for cause, one in cursor.get("open", {}).items()},
        awaited={cause: finding_of(one) for cause, one in cursor.get("awaited", {}).items()},
        waiting=outbox_of(cursor.get("waiting", {})),
    )


def _dumped(memory: Memory) -> str:
    return json.dumps(
        {
            "looked_at": None if memory.looked_at is None else memory.looked_at.isoformat(),
            "event": memory.event,
            "newest": memory.newest,
            "read": memory.read,
            "entry": memory.entry,
            "open": {cause: dumped(one) for cause, one in memory.open.items()},
            "awaited": {cause: dumped(one) for cause, one in memory.awaited.items()},
            "waiting": dumped_outbox(memory.waiting),
        }
    )
