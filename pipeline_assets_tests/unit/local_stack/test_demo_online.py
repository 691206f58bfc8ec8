"""What the demo has to do with the online store, and how it shows it."""

from datetime import UTC, datetime

from rich.console import Console

from pipeline_assets.local_stack.demo import journeys_of
from pipeline_assets.local_stack.demo_command import chosen_demo, show_online
from pipeline_assets.local_stack.demo_online import Compared


def shown(compared: Compared) -> str:
    """What is printed of a comparison."""
    console = Console(width=300, record=True)
    show_online(console, [compared.as_json()])
    return console.export_text()


def test_the_demo_builds_the_views_of_its_use_case_that_are_kept_online() -> None:
    """It is one run, of the job of that use case, over no days."""
    _, demo = chosen_demo("nyc_flights")
    (build,) = journeys_of(demo).online

    assert (build.job, build.span) == ("build_online_nyc_flights", None)


def test_a_value_that_differs_is_named_with_its_feature() -> None:
    """Where all are equal it says so; else each feature with the number of vectors in which it differs."""
    at = datetime(2013, 7, 1, tzinfo=UTC)
    equal = Compared(model="delays", at=at, vectors=1200, features=5, with_value=5900, differing={})
    skewed = Compared(model="delays", at=at, vectors=1200, features=5, with_value=5900, differing={"origin__late_7d": 31})

    assert (
        "1,200 vectors of delays up to 2013-07-01T00:00:00+00:00, 6,000 values (5,900 not null): 0 differ from the lake's, bit for bit."
        in shown(equal)
    )
    assert "31 differ from the lake's (origin__late_7d in 31)." in shown(skewed)
    assert skewed.as_json()["differing_values"] == 31
