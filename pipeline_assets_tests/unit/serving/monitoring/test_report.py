"""The report and the picture of drift: numbers and categories in one page, small samples that can be drawn again."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from pipeline_assets.serving.monitoring.drift import Drift
from pipeline_assets.serving.monitoring.picture import draw_drift
from pipeline_assets.serving.monitoring.report import drift_report, sample

FIRST = date(2013, 5, 1)


def rows(seed: int, texts: list[str | None]) -> pa.Table:
    """A number, a code with nulls, and text."""
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "number": random.random(200),
            "code": pa.array(random.integers(0, 2, 200), pa.int64(), mask=random.random(200) < 0.1),
            "text": pa.array([texts[place] for place in random.integers(0, len(texts), 200)], pa.string()),
        }
    )


def test_the_report_shows_numbers_codes_by_their_names_and_text() -> None:
    """One page with every column; a category that was never seen before, and nulls, are no error."""
    categories = {"code": ("jet", "propeller"), "text": ("red", "blue")}
    page = drift_report(rows(1, ["red", None, "green"]), rows(2, ["red", "blue"]), ["number", "code", "text"], categories, 100).decode()

    assert all(name in page for name in ("number", "code", "text", "propeller", "green"))


def test_a_number_that_has_no_value_on_one_side_is_left_out_of_the_page() -> None:
    """Regression: a feature that is null in all rows of some days stopped the monitoring of these days."""
    full = rows(1, ["red"])
    without, with_values = (
        full.append_column("seldom_measured", column) for column in (pa.nulls(full.num_rows, pa.float64()), full["number"])
    )
    columns = ["number", "seldom_measured"]
    pages = [drift_report(*pair, columns, {}, 100).decode() for pair in ((without, with_values), (with_values, without))]

    assert ["number" in page and "seldom_measured" not in page for page in pages] == [True, True]


def test_the_same_rows_give_the_same_sample() -> None:
    """So many rows, in their order; all of them where there are fewer."""
    table = pa.table({"row": list(range(1000))})

    assert sample(table, 50) == sample(table, 50)
    assert sample(table, 50)["row"].to_pylist() == sorted(sample(table, 50)["row"].to_pylist())
    assert sample(table, 2000) is table


def test_the_picture_of_drift_is_a_small_image() -> None:
    """A PNG that metadata can carry."""
    found = [
        Drift(day=FIRST + timedelta(days=day), column=f"feature_{column}", psi=day * column / 99, limit=0.25, rows=900, null_share=0.0)
        for day in range(30)
        for column in range(25)
    ]
    image = draw_drift(found)

    assert image.startswith(b"\x89PNG")
    assert len(image) < 60_000


def test_no_value_becomes_a_part_of_the_page() -> None:
    """A category that is foreign text ends no script of the report and begins none."""
    hostile = "</script><script>document.title = 'taken over'</script>"
    rows = pa.table({"score": [0.1, 0.9] * 20, "answer": [hostile, "on time"] * 20})

    page = drift_report(rows, rows, ["score", "answer"], {"answer": ()}, 40).decode()

    assert "document.title = 'taken over'" in page
    assert "</script><script>document" not in page
