"""The `demo` command: starts the stack, runs the demo with a progress display, and prints what was built."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.settings import ROOT, home_folder

if TYPE_CHECKING:
    from pipeline_assets.core.settings import Settings
    from pipeline_assets.local_stack.demo import Journey
    from pipeline_assets.local_stack.runs import RunEvent
    from pipeline_assets.local_stack.worlds import Demo, World

LOCATION = "pipeline_assets"


# What a row is in each group of assets, in the order of the graph; those that have no row here are means to others.
ROWS_OF: Mapping[str, str] = {
    "staged": "rows as a source sent them, in the history",
    "typed": "records of streams that fit their contract",
    "raw": "versions of a source's rows, in the history",
    "staging": "views of raw",
    "cleaned": "versions of rows (_history), and views of the newest",
    "lake": "versions of rows, in the lake",
    "features": "entities at times of decisions, each once",
    "feature_store": "decisions with all features of a model",
    "training_sets": "decisions whose outcome is known",
    "candidates": "trained models",
    "champions": "versions that are live",
    "packages": "what the service loads",
    "online": "entities whose features are kept up to date",
    "predictions": "scored decisions",
    "monitor": "days, and columns on days",
    "endpoints": "the service",
}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(demo)


def demo(
    name: Annotated[str | None, typer.Argument(help="A world that has a demo; not needed where there is one.")] = None,
    *,
    again: Annotated[bool, typer.Option(help="Make all of it again, also where nothing is new.")] = False,
) -> None:
    """Build the whole asset graph from a simulated world: months of history, a model, its scores and monitors, and a month of events.

    Ends with exit code 1 if a value or a prediction that is served differs from the lake's. May be run again: where nothing is new, it says
    so, and asks the service once more.
    """
    from pipeline_assets.core.clocks import replay
    from pipeline_assets.local_stack import demo as demos
    from pipeline_assets.local_stack import stack
    from pipeline_assets.local_stack.demo_again import is_settled, made_alike, state_of
    from pipeline_assets.local_stack.display import show_links, watching

    console = Console()
    world, chosen = chosen_demo(name)
    with watching("Starting services") as watch:
        settings = stack.up(home_folder(), watch=watch)
    before = state_of(settings, world, chosen)
    known = None if again else made_alike(settings.home, before)
    if known is None:
        made = _make(console, settings, world, chosen)
        after = state_of(settings, world, chosen)
        made["made_from"] = after if is_settled(before, after) else None
    else:
        console.print("Nothing is new since the last demo: no run was started. `pipeline demo --again` makes all of it again.")
        made = {**known, "live": _ask(settings, chosen, known)}
    replay(settings.home, chosen.use_case, chosen.streamed.last)
    path = demos.write_summary(settings.home, made)
    _print(console, made)
    show_links(stack.status(settings.home))
    for page, url in made["pages"].items():
        console.print(f"{page}: {url}", highlight=False, soft_wrap=True)
    console.print(f"All of this as JSON: {path}", highlight=False, soft_wrap=True)
    if any(one["differing_values"] for one in made["online"]) or any(one["differing"] for one in made["live"]):
        raise typer.Exit(1)


def _make(console: Console, settings: "Settings", world: "World", chosen: "Demo") -> dict[str, Any]:
    """Runs the demo and asks the services about it: what came out, in the form of `demo.json`."""
    from pipeline_assets.core.clocks import replay
    from pipeline_assets.local_stack import demo as demos
    from pipeline_assets.local_stack.demo_online import hold_beside
    from pipeline_assets.local_stack.runs import Dagster
    from pipeline_assets.local_stack.simulator import send_events
    from pipeline_assets.model_lifecycle.feature_store.online.commands import declared

    with Walk(console) as walk:
        days = (chosen.streamed.first, chosen.streamed.last)
        stream = partial(send_events, settings, ROOT, world, days)
        is_first = not (settings.home / demos.SUMMARY).exists()
        key = settings.dagster_key
        live = Dagster(settings.dagster_url, LOCATION, key.get_secret_value() if key is not None else None)
        # What is stale, and what is awaited, goes by how far the world was replayed, not by the clock on the wall.
        replay(settings.home, chosen.use_case, chosen.history.last)
        tally, runs = demos.Demonstration(demo=chosen, dagster=live, watch=walk.note).run(stream, is_first=is_first)
        begun = time.monotonic()
        compared = hold_beside(settings, *declared(), chosen)
        tally.seconds["online_parity"] = round(time.monotonic() - begun, 2)
        made = {**demos.summary(chosen, tally), "runs": runs, "online": [one.as_json() for one in compared]}
        return {**made, "live": _ask(settings, chosen, made)}


def _ask(settings: "Settings", chosen: "Demo", made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the service answers about the streamed days, by the versions that are live now."""
    from pipeline_assets.core.declarations import load_project
    from pipeline_assets.core.instants import microseconds_at
    from pipeline_assets.local_stack.demo_predictions import predict_live
    from pipeline_assets.model_lifecycle.registry.ledger import live_version

    project = load_project()
    at = {one["model"]: microseconds_at(datetime.fromisoformat(one["at"])) for one in made["online"]}
    found = {name: live_version(settings, project.model(name)) for name in at}
    versions = {name: version for name, version in found.items() if version is not None}
    return [one.as_json() for one in predict_live(settings, project, chosen, {name: at[name] for name in versions}, versions)]


def _print(console: Console, made: Mapping[str, Any]) -> None:
    show(console, made)
    show_stream(console, made["stream"], made["runs"])
    show_online(console, made["online"])
    show_predictions(console, made["live"])


def chosen_demo(name: str | None) -> "tuple[World, Demo]":
    """The world of that name with its demo, or the only one that has one; raises UnknownName with those there are."""
    from pipeline_assets.local_stack.worlds import read_worlds

    found = {world.name: (world, world.demo) for world in read_worlds(ROOT) if world.demo is not None}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        raise UnknownName("demo", name or "", list(found))
    return found[name]


class Walk:
    """A line per journey with the asset it is at; where the output is no terminal, a line per finished asset."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[at]}"),
            TimeElapsedColumn(),
        )
        self._console = console
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._tasks: dict[str, Any] = {}
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, journey: "Journey", event: "RunEvent") -> None:
        """Shows one event of a run."""
        from pipeline_assets.local_stack.runs import Checked, Materialized, StepEnded

        if journey.title not in self._tasks:
            self._tasks[journey.title] = self._progress.add_task(journey.title, total=None, at="")
            self._say(f"{journey.title}:")
        task = self._tasks[journey.title]
        match event:
            case Materialized():
                self._progress.update(task, at=f"{event.asset} {event.partition or ''}")
            case StepEnded():
                self._progress.update(task, at=f"{event.step.replace('__', '/', 1)} done")
                self._say(f"  {event.step.replace('__', '/', 1)}: {event.seconds:.1f} s")
            case Checked() if not event.passed:
                self._console.print(
                    f"  check '{event.check}' of {event.asset} failed ({event.severity.lower()})", style="yellow", highlight=False
                )
            case _:
                pass

    def _say(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(line, highlight=False)


def show(console: Console, made: Mapping[str, Any]) -> None:
    """Prints what the demo built: the assets with their rows, the models, how good their scores were, and the drift."""
    console.print(_built(made["assets"]))
    for model in made["models"]:
        console.print(_model_line(model), highlight=False, soft_wrap=True)
    seconds = ", ".join(f"{name} {seconds:.0f}" for name, seconds in made["seconds"].items())
    console.print(f"Seconds: {seconds}.", highlight=False, soft_wrap=True)


def _built(assets: Mapping[str, Mapping[str, int | None]]) -> Table:
    """The assets in the order of the graph, below what a row of their group is, and over how many days."""
    table = Table(title="What was built", title_justify="left", box=None, header_style="bold")
    for heading, side in (("asset", "left"), ("rows", "right"), ("days", "right")):
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=True)
    for group, meaning in ROWS_OF.items():
        found = {asset: counts for asset, counts in assets.items() if asset.split("/")[0] == group}
        if found:
            table.add_row(meaning, style="dim")
        for asset, counts in found.items():
            table.add_row(f"  {asset}", *(f"{number:,}" if number else "" for number in (counts["rows"], counts["partitions"])))
    return table


def _model_line(model: Mapping[str, Any]) -> str:
    scores, drift, turned_out = model["scores"], model["drift"], model["turned_out"]
    judged = (
        f"{model['metric']} {turned_out['value']:.3f} by the {turned_out['rows']:,} whose outcome is known"
        if turned_out["value"] is not None
        else "how good they were is not yet known"
    )
    return (
        f"Model {model['name']} version {model['version']}: learned from {model['training_rows']:,} rows; {model['metric']} "
        f"{model['value']:.3f} on rows held out, {model['baseline']:.3f} from the request alone. "
        f"Scores: {scores['rows']:,} on {scores['days']} days, {judged}. "
        f"Drift: {drift['drifted_days']} of {drift['days']} days have drifted; {drift['drifted']} of {drift['features']} columns were "
        "beyond their limits on some day."
    )


def show_stream(console: Console, stream: Mapping[str, Any], runs: int) -> None:
    """Prints what became of the events, and the result of the audit."""
    audited = stream["audited"]
    records, keys = (sum(found.get(unit, 0) for found in audited.values()) for unit in ("records", "keys"))
    wrong = sorted(asset for asset, found in audited.items() if not found["passed"])
    requested = f"the sensors requested {runs} run{'' if runs == 1 else 's'} over their days" if runs else "they had been streamed before"
    result = f"differences in {', '.join(wrong)}; see their failed checks" if wrong else "nothing lost, nothing counted twice"
    console.print(
        f"Events of {stream['first_day']} to {stream['last_day']}: {requested}.\n"
        f"Audit: {records:,} records of {sum('records' in one for one in audited.values())} topics and {keys:,} keys of "
        f"{sum('keys' in one for one in audited.values())} followed tables compared: {result}.",
        style="red" if wrong else "",
        highlight=False,
        soft_wrap=True,
    )


def show_online(console: Console, compared: Sequence[Mapping[str, Any]]) -> None:
    """Prints how the online values of each model compare with the lake's."""
    for one in compared:
        differing = ", ".join(f"{feature} in {count:,}" for feature, count in one["differing"].items())
        console.print(
            f"Online: {one['vectors']:,} vectors of {one['model']} up to {one['at']}, {one['values']:,} values "
            f"({one['values_not_null']:,} not null): {one['differing_values']:,} differ from the lake's"
            + (f" ({differing})." if differing else ", bit for bit."),
            style="red" if differing else "",
            highlight=False,
            soft_wrap=True,
        )


def show_predictions(console: Console, live: Sequence[Mapping[str, Any]]) -> None:
    """Prints what the service answered, how it compares with the lake, and why one answer came out as it did."""
    for one in live:
        why = ", ".join(f"{feature} {moved:+.2f}" for feature, moved in one["why"].items())
        verdict = f"{one['differing']:,} differ from those of the lake's features" + ("" if one["differing"] else ", bit for bit")
        console.print(
            f"Live: {one['predictions']:,} predictions of {one['model']} by version {one['version']}: {verdict}. "
            f"The first, {one['example']}, is {one['answer']:.3f}: {why}.",
            style="red" if one["differing"] else "",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        "The service's page asks for a key: pipeline serve-keys create me --role read --role predict", highlight=False, soft_wrap=True
    )
