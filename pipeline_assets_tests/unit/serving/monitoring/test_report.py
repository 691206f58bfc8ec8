"""The report and the picture of drift: numbers and categories in one page, small samples that can be drawn again."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from gzip import compress

import numpy as np
import pyarrow as pa
import pytest

from pipeline_assets.forgetting.matches import names_word
from pipeline_assets.serving.monitoring.drift import NO_CATEGORIES, Drift
from pipeline_assets.serving.monitoring.picture import draw_drift
from pipeline_assets.serving.monitoring.report import METHOD_IN_WORDS, Sheet, by_distance, drift_report, sample

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


def sheet(**indexes: float) -> Sheet:
    """What the monitor found of each column, against a limit of 0.25; a column named `week` is judged by weeks."""
    found = [Drift(day=FIRST, column=column, psi=psi, limit=0.25, rows=1234, null_share=0.125) for column, psi in indexes.items()]
    return Sheet(
        model="late_trains", version=7, day=FIRST, verdict="2013-05-01 has drifted: 1 of 3 features drifted.", found=found,
        weekly=frozenset({"week"}), as_of="2013-04-30 00:00 UTC",
    )  # fmt: skip


def page_of(about: Sheet, current: pa.Table, reference: pa.Table, categories: Mapping[str, Sequence[str]] = NO_CATEGORIES) -> str:
    """The page about a day whose week has the same rows."""
    return drift_report(about, (current, current, reference), categories, 100).decode()


def test_the_report_shows_numbers_codes_by_their_names_and_text() -> None:
    """One page with every column; a category that was never seen before, and nulls, are no error."""
    categories = {"code": ("jet", "propeller"), "text": ("red", "blue")}
    page = page_of(sheet(number=0.1, code=0.2, text=0.3), rows(1, ["red", None, "green"]), rows(2, ["red", "blue"]), categories)

    assert all(name in page for name in ("number", "code", "text", "propeller", "green"))


@pytest.mark.parametrize("word", ["red", "Zürich", 'say "yes"', "C:\\d", "<b>bold</b>", "two\nlines", "Ж" * 300, "kiosk 😀"])
def test_forgetting_finds_a_category_in_the_page(word: str) -> None:
    """Regression: Evidently writes values in JSON, so only words of plain ASCII were found; a part of the word is another word."""
    page = page_of(sheet(text=0.3), rows(1, [word]), rows(2, ["blue"]), {"text": ("blue",)}).encode()

    assert names_word(page, word)
    assert not names_word(page, f"{word}x")
    assert not names_word(page, "Zür")


def test_the_report_has_the_verdict_of_the_monitor_and_no_other() -> None:
    """Regression: Evidently judged samples by bins and limits of its own, and called a day drifted that the monitor had passed.

    The two tables are equal, so whatever Evidently found of itself would be no drift; the page has the indexes and limits of the monitor.
    """
    same = rows(1, ["red"])
    page = page_of(sheet(number=0.777, code=0.111), same, same, {"code": ("jet", "propeller")})

    assert "<h1>Drift of late_trains version 7 on 2013-05-01</h1>" in page
    assert "2013-05-01 has drifted: 1 of 3 features drifted." in page
    assert "<td>number</td><td>0.777</td><td>0.250</td><td><b>drifted</b></td><td>the day</td><td>1,234</td><td>12.5%</td>" in page
    assert "<td>code</td><td>0.111</td><td>0.250</td><td>as before</td>" in page
    assert page.count("Data drift detected") == 1
    assert page.count("Data drift not detected") == 1
    assert "Drift score: 0.777" in page
    assert METHOD_IN_WORDS in page


def test_reports_of_one_process_keep_nothing_of_each_other() -> None:
    """Regression: the findings of each stayed in Evidently's registry for as long as the process lived."""
    same = rows(1, ["red"])
    first = page_of(sheet(number=0.777), same, same)
    # Once the report has imported Evidently, which warns as it is imported.
    from evidently.legacy.calculations.stattests import registry

    kept = len(registry._registered_stat_test_funcs)  # noqa: SLF001 - nothing else says what is kept
    second = page_of(sheet(number=0.222), same, same)

    assert len(registry._registered_stat_test_funcs) == kept  # noqa: SLF001
    assert [[f"Drift score: {index}" in page for index in ("0.777", "0.222")] for page in (first, second)] == [[True, False], [False, True]]


def test_a_column_that_is_judged_by_weeks_is_drawn_by_weeks() -> None:
    """The day has one weekday, and its week all of them."""
    day, week = (pa.table({"week": [code] * 30}) for code in (1, 2))
    page = drift_report(sheet(week=0.1), (day, week, week), {"week": ("Monday", "Tuesday", "Wednesday")}, 100).decode()

    assert "<td>the week up to it</td>" in page
    assert "Tuesday" in page
    assert "Wednesday" in page


def test_only_the_columns_nearest_to_their_limits_are_drawn() -> None:
    """All columns are in the table, and the page stays small: less than 2 MB as it is sent."""
    columns = {f"feature_{place:02d}": place / 100 for place in range(64)}
    table = pa.table({column: np.random.default_rng(place).random(500) for place, column in enumerate(columns)})
    about = sheet(**columns)
    page = page_of(about, table, table)

    assert [one.column for one in by_distance(about.found)] == sorted(columns, reverse=True)
    assert all(f"<td>{column}</td>" in page for column in columns)
    assert ["Data drift" in page, page.count("Drift score")] == [True, 12]
    assert [f"Drift score: 0.{place}" in page for place in (63, 52, 51)] == [True, True, False]
    assert len(compress(page.encode())) < 2_000_000


def test_a_number_that_has_no_value_on_one_side_has_no_picture() -> None:
    """Regression: a feature that is null in all rows of some days stopped the monitoring of these days."""
    full = rows(1, ["red"])
    without, with_values = (
        full.append_column("seldom_measured", column) for column in (pa.nulls(full.num_rows, pa.float64()), full["number"])
    )
    about = sheet(number=0.1, seldom_measured=0.9)
    pages = [page_of(about, *pair) for pair in ((without, with_values), (with_values, without))]

    assert ["<td>seldom_measured</td>" in page and page.count("Drift score") == 1 for page in pages] == [True, True]


def test_the_report_has_pictures_of_a_day_on_which_a_view_is_broken() -> None:
    """Regression: the columns furthest from their limits were chosen first, and had no picture as all of them were null."""
    full = rows(1, ["red"])
    broken = [f"broken_{place:02d}" for place in range(12)]
    without, with_values = (
        pa.table({**{name: full[name] for name in full.column_names}, **dict.fromkeys(broken, column)})
        for column in (pa.nulls(full.num_rows, pa.float64()), full["number"])
    )
    page = page_of(sheet(number=0.1, code=0.2, **dict.fromkeys(broken, 9.0)), without, with_values, {"code": ("jet", "propeller")})

    assert page.count("Drift score") == 2


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


def test_a_column_that_was_not_judged_on_a_day_is_blank_there() -> None:
    """Columns that are judged by weeks have no index on the first days; the picture differs from one of an index that is there."""
    found = [
        Drift(day=FIRST + timedelta(days=day), column=column, psi=0.1, limit=0.25, rows=900, null_share=0.0)
        for day in range(2)
        for column in ("week", "number")
    ]

    assert draw_drift(found[1:]).startswith(b"\x89PNG")
    assert draw_drift(found[1:]) != draw_drift(found)


def test_no_value_becomes_a_part_of_the_page() -> None:
    """A category that is foreign text ends no script of the report and begins none."""
    hostile = "</script><script>document.title = 'taken over'</script>"
    rows = pa.table({"score": [0.1, 0.9] * 20, "answer": [hostile, "on time"] * 20})

    page = page_of(sheet(score=0.1, answer=0.2), rows, rows, {"answer": ()})

    assert "document.title = 'taken over'" in page
    assert "</script><script>document" not in page
