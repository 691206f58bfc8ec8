"""What an event of a run or a check, or an entry of the ledger, says of a cause. Pure: what Dagster has comes as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from pipeline_assets.alerts.incidents import Finding
from pipeline_assets.core import names
from pipeline_assets.core.retries import Asked
from pipeline_assets.model_lifecycle.registry.ledger import Entry

# What a check says of itself in its metadata, the first that there is.
PROBLEM, REMEDY = ("problem", "sentence", "reason"), ("what to do", "todo")
# Runs of assets that somebody chose have no job of their own.
CHOSEN = "__ASSET_JOB"
DIGITS = 12
LOOK = "Open the check: it shows what was found, and its description what is promised."
REPEAT = "Open the run: the step that failed says what is wrong. Mend it, then start the run again from there."
DONE = {
    "promote": "is live now",
    "rollback": "is live again",
    "reject": "was judged and may not go live",
    "shadow": "is tried in the shadow of the live one",
    "canary": "answers a part of the requests",
    "return": "was taken back, and answers no more",
}


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Where Dagster's pages are."""

    url: str

    def run(self, run_id: str) -> str:
        """The page of a run."""
        return f"{self.url.rstrip('/')}/runs/{run_id}"

    def checks(self, asset: Sequence[str]) -> str:
        """The page of an asset's checks."""
        return f"{self.asset(asset)}?view=checks"

    def asset(self, asset: Sequence[str]) -> str:
        """The page of an asset."""
        return f"{self.url.rstrip('/')}/assets/{'/'.join(asset)}"


def cause_of(run: Asked) -> str:
    """The cause of a failed run: its job, the first of its days, and what was chosen of the job."""
    chosen = sha256("\n".join(sorted(run.assets)).encode()).hexdigest()[:DIGITS] if run.assets else ""
    return f"{causes_of(run.job)}{'' if run.days is None else run.days[0]}:{chosen}"


def causes_of(job: str) -> str:
    """How the causes of a job's runs begin."""
    return f"run {job}:"


def of_run(run: Asked, at: datetime, failure: str, *, owners: Sequence[str], pages: Pages, counts_at: datetime | None = None) -> Finding:
    """A run that failed. It is one cause until a run makes the same; one of assets that somebody chose, without a job, is said once.

    `counts_at` is until when somebody may try it again (UTC; None: nobody does).
    """
    has_job = run.job != CHOSEN
    what = run.job if has_job or not run.assets else ", ".join(sorted(run.assets))
    over = "" if run.days is None else f" over {run.days[0]}" if run.days[0] == run.days[1] else f" over {run.days[0]} to {run.days[1]}"
    return Finding(
        cause=cause_of(run),
        is_bad=True,
        at=at,
        title=f"Run of {what}{over} failed",
        detail=failure,
        remedy=REPEAT,
        link=pages.run(run.run_id),
        owners=tuple(owners),
        counts_at=counts_at,
        run=run.run_id,
        is_once=not has_job,
    )


def of_check(
    asset: Sequence[str],
    check: str,
    at: datetime,
    *,
    passed: bool,
    is_warning: bool,
    said: Mapping[str, str],
    owners: Sequence[str],
    pages: Pages,
) -> Finding:
    """A check that was evaluated. It is one cause until it passes, on whatever day; `said` is its metadata and `description`, as text."""
    cause = f"check {'/'.join(asset)} {check}"
    if passed:
        return Finding(cause=cause, is_bad=False, at=at)
    weight = "warns" if is_warning else "failed"
    facts = "; ".join(f"{name}: {value}" for name, value in said.items() if name not in {"description", *PROBLEM, *REMEDY})
    return Finding(
        cause=cause,
        is_bad=True,
        at=at,
        title=f"Check {check} of {'/'.join(asset)} {weight}",
        detail=_first(said, (*PROBLEM, "description")) or facts,
        remedy=_first(said, REMEDY) or LOOK,
        link=pages.checks(asset),
        owners=tuple(owners),
    )


def of_decision(model: str, entry: Entry, owners: Sequence[str], pages: Pages) -> Finding:
    """An entry of the ledger of promotions."""
    share = f" ({entry.share:.0%})" if entry.share is not None else ""
    before = f" Before it: version {entry.previous_version}." if entry.previous_version is not None else ""
    return Finding(
        cause=f"decision {model} {entry.sequence}",
        is_bad=True,
        at=entry.recorded_at,
        title=f"Version {entry.version} of {model} {DONE[entry.action]}{share}",
        detail=f"Decided by {entry.actor}: {entry.reason}{before}",
        remedy=f"`pipeline models history {model}` shows all decisions.",
        link=pages.asset(names.champion(model)),
        owners=tuple(owners),
    )


def _first(said: Mapping[str, str], wanted: Sequence[str]) -> str:
    return next((said[name] for name in wanted if said.get(name)), "")
