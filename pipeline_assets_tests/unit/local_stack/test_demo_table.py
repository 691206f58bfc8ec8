"""What the demo prints: what rows are, and how good the scores turned out."""

import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from pipeline_assets.core.names import PARTITION_ROWS
from pipeline_assets.local_stack.demo import Tally
from pipeline_assets.local_stack.demo_command import ROWS_OF, show
from pipeline_assets.local_stack.runs import events_of

MODEL = {
    "name": "flight_delay", "version": 2, "metric": "roc_auc", "value": 0.7964, "baseline": 0.735, "training_rows": 109041,
    "scores": {"rows": 27803, "days": 30}, "drift": {"days": 30, "drifted_days": 2, "features": 66, "drifted": 16},
    "turned_out": {"rows": 27501, "value": 0.8012},
}  # fmt: skip
ASSETS = {
    "cleaned/flights": {"rows": 0, "partitions": 151},
    "raw/flight_schedule": {"rows": 137823, "partitions": 151},
    "raw/planes": {"rows": 3322, "partitions": 0},
}
GRAPH = Path(__file__).parents[2] / "architecture" / "asset_graph.txt"
# They are sources, or stand for a service, and no demo makes them.
NOT_MADE = {"airline_ops", "connectors", "landed", "league", "maintenance", "topics", "weather"}


def shown(model: dict[str, object]) -> str:
    """What the demo prints of three assets and a model."""
    text = StringIO()
    show(Console(file=text, width=100), {"assets": ASSETS, "models": [model], "seconds": {"audit_sources": 31.2}})
    return text.getvalue()


def test_the_table_says_what_its_rows_are_and_in_which_order_they_came() -> None:
    """Sources first; what a view has no number for is empty, and each group says once what a row is."""
    lines = [line.strip() for line in shown(MODEL).splitlines()]
    table = lines[lines.index(ROWS_OF["raw"]) : lines.index(ROWS_OF["raw"]) + 5]

    assert table[0] == ROWS_OF["raw"]
    assert [line.split() for line in table[1:3]] == [["raw/flight_schedule", "137,823", "151"], ["raw/planes", "3,322"]]
    assert table[3] == ROWS_OF["cleaned"]
    assert table[4].split() == ["cleaned/flights", "151"]


def test_a_model_is_shown_with_what_became_of_its_scores() -> None:
    """The figure by the outcomes beside that of the rows held out; that outcomes are not yet known is said."""
    assert "roc_auc 0.796 on rows held out, 0.735 from the request alone. Scores: 27,803 on 30 days, roc_auc 0.801 by the 27,501" in shown(
        MODEL
    )
    assert "Drift: 2 of 30 days have drifted; 16 of 66 columns were beyond their limits on some day." in shown(MODEL)
    assert "30 days, how good they were is not yet known. Drift" in shown({**MODEL, "turned_out": {"rows": 0, "value": None}})


def test_every_group_that_is_made_says_what_a_row_is() -> None:
    """A new group of assets needs a line in the table."""
    groups = {line.split()[1].split("/")[0] for line in GRAPH.read_text().splitlines() if ": " in line}
    assert {"raw", "endpoints"} < groups
    assert groups - NOT_MADE == set(ROWS_OF)


def test_figures_of_all_days_go_before_those_of_the_newest_one() -> None:
    """The event of the newest day has both, by the same names; rows of its day stay its own."""
    own = [{"label": "labels", "intValue": 987}, {"label": "roc_auc", "floatValue": 0.76}, {"label": PARTITION_ROWS, "intValue": 1}]
    sums = {"label": "run", "jsonString": json.dumps({"labels": 27803, "roc_auc": 0.8012, "days_known": 30})}
    event = {
        "__typename": "MaterializationEvent", "assetKey": {"path": ["monitor", "flight_delay_performance"]}, "partition": "2013-05-30",
        "metadataEntries": [*own, sums],
    }  # fmt: skip
    tally = Tally()
    for reported in events_of(event, {}):
        tally.add(reported)

    found = tally.numbers["monitor/flight_delay_performance"]
    assert (found["labels"], found["roc_auc"], found["days_known"]) == (27803, 0.8012, 30)
    assert tally.rows("monitor/flight_delay_performance") == 1
