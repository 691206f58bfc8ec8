"""A page about one day of drift: what the monitor found, and Evidently's pictures of the columns nearest to their limits.

All figures, limits and the verdict are the monitor's own, of all rows; Evidently draws samples and judges nothing by itself. The page is
kept packed on the object store, and the web server shows it to whoever may see Dagster's pages.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from functools import cache
from gzip import compress
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.foreign import in_page
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.training.contract import ModelFeature
from pipeline_assets.serving.monitoring.drift import Drift

if TYPE_CHECKING:
    import pandas as pd

SEED = 2013
UNKNOWN = "(null)"
# Each picture is some 70 kB, and of the columns that are far from their limits nobody wants one.
MOST_DRAWN = 12
METHOD, METHOD_IN_WORDS = "monitor_psi", "stability index of the monitor"
# What the monitor found of each column of the report that is being made.
FOUND = ContextVar[Mapping[str, Drift]]("FOUND")
STYLE = "body{font:14px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}td:first-child,th:first-child{text-align:left}"


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a report is about: a version of a model on one day, the monitor's sentence about that day, and what it found of each column."""

    model: str
    version: int
    day: date
    verdict: str
    found: Sequence[Drift]
    weekly: frozenset[str]
    as_of: str


def sample(rows: pa.Table, size: int) -> pa.Table:
    """At most `size` rows drawn without replacement, in their order; the same rows give the same sample."""
    if rows.num_rows <= size:
        return rows
    return rows.take(np.sort(np.random.default_rng(SEED).choice(rows.num_rows, size, replace=False)))


def category_names(features: Sequence[ModelFeature]) -> dict[str, tuple[str, ...]]:
    """The categories of each categorical feature."""
    return {feature.name: feature.categories for feature in features if feature.is_categorical}


def by_distance(found: Sequence[Drift]) -> list[Drift]:
    """The columns that are furthest beyond their limits or nearest to them first."""
    return sorted(found, key=lambda one: (-one.psi / one.limit, one.column))


def drift_report(sheet: Sheet, rows: tuple[pa.Table, pa.Table, pa.Table], categories: Mapping[str, Sequence[str]], size: int) -> bytes:
    """The page as HTML that needs no network: verdict, all columns as a table, and Evidently's pictures of samples of `size` rows.

    rows: those of the day, of the week up to it, by which some columns are judged, and of the training set. `categories` names the
    categorical columns with the names that their codes stand for; one that is text is shown as it is. The columns nearest to their limits
    have pictures; a number without a finite value in one of the samples has none, as Evidently refuses it.
    """
    of_day, _, reference = rows
    page = _evidently(sheet, dict(islice(_drawable(sheet, rows, categories, size), MOST_DRAWN)), categories)
    head = f"<style>{STYLE}</style>{_summary(sheet, of_day.num_rows, reference.num_rows, size)}"
    return page.replace("<body>", f"<body>{head}", 1).encode()


def _drawable(
    sheet: Sheet, rows: tuple[pa.Table, pa.Table, pa.Table], categories: Mapping[str, Sequence[str]], size: int
) -> "Iterator[tuple[str, Sequence[pd.Series]]]":
    """The columns that have a picture, with samples of the day and of the training set; those nearest to their limits first."""
    of_day, of_week, reference = rows
    for column in [one.column for one in by_distance(sheet.found)]:
        pair = [_series(part, column, categories, size) for part in (of_week if column in sheet.weekly else of_day, reference)]
        if column in categories or all(np.isfinite(one).any() for one in pair):
            yield column, pair


def keep(settings: Settings, sheet: Sheet, page: bytes) -> str:
    """Puts the page on the object store; returns the address at which the web server shows it."""
    name = f"{sheet.day}_v{sheet.version}.html"
    object_store(settings).put_object(
        Bucket=settings.s3_bucket,
        Key=names.report_key(sheet.model, name),
        Body=compress(page, mtime=0),
        ContentType="text/html; charset=utf-8",
        ContentEncoding="gzip",
    )
    return f"{str(settings.dagster_url).rstrip('/')}{names.report_path(sheet.model, name)}"


def _evidently(sheet: Sheet, frames: "Mapping[str, Sequence[pd.Series]]", categories: Mapping[str, Sequence[str]]) -> str:
    """Evidently's page of the columns, each with the index and the limit that the monitor has for it."""
    with warnings.catch_warnings():
        # Evidently pulls in a web framework that warns of its own deprecations; nothing of it is used here.
        warnings.simplefilter("ignore")
        import pandas as pd
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import ValueDrift

        found = {one.column: one for one in sheet.found}
        definition = DataDefinition(
            numerical_columns=[column for column in frames if column not in categories],
            categorical_columns=[column for column in frames if column in categories],
        )
        drawn = [
            Dataset.from_pandas(pd.DataFrame({column: pair[side] for column, pair in frames.items()}), data_definition=definition)
            for side in (0, 1)
        ]
        metrics = [ValueDrift(column=column, method=_registered(), threshold=found[column].limit) for column in frames]
        token = FOUND.set(found)
        try:
            return str(Report(metrics).run(*drawn).get_html_str(as_iframe=False))
        finally:
            FOUND.reset(token)


@cache
def _registered() -> str:
    """The name by which Evidently asks for the monitor's verdict, registered once in a process, as nothing can be taken back."""
    from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    register_stattest(StatTest(METHOD, METHOD_IN_WORDS, [ColumnType.Numerical, ColumnType.Categorical]), _verdict)
    return METHOD


def _verdict(values: "pd.Series", *_: object) -> tuple[float, bool]:
    """The index that the monitor has for a column, and whether it has drifted."""
    one = FOUND.get()[str(values.name)]
    return one.psi, one.is_drifted


def _summary(sheet: Sheet, rows: int, reference_rows: int, size: int) -> str:
    lines = "".join(_line(one, one.column in sheet.weekly) for one in by_distance(sheet.found))
    return (
        f"<h1>Drift of {escape(sheet.model)} version {sheet.version} on {sheet.day}</h1>"
        f"<p><b>{escape(sheet.verdict)}</b></p>"
        f"<p>The {rows:,} predictions of the day beside the {reference_rows:,} rows of the training set as of {escape(sheet.as_of)}. The "
        "index is the population stability index of all rows; a column has drifted above its limit, which is the declared one or what the "
        f"days of the training set show themselves. Pictures are of at most {size:,} rows, of the columns nearest to their limits that "
        "have values.</p>"
        "<table><tr><th>column</th><th>index</th><th>limit</th><th>verdict</th><th>judged by</th><th>rows</th><th>null</th></tr>"
        f"{lines}</table>"
    )


def _line(one: Drift, is_weekly: bool) -> str:  # noqa: FBT001 - a fact of the column, as the others are
    verdict, span = "<b>drifted</b>" if one.is_drifted else "as before", "the week up to it" if is_weekly else "the day"
    return (
        f"<tr><td>{escape(one.column)}</td><td>{one.psi:.3f}</td><td>{one.limit:.3f}</td><td>{verdict}</td><td>{span}</td>"
        f"<td>{one.rows:,}</td><td>{one.null_share:.1%}</td></tr>"
    )


def _series(rows: pa.Table, column: str, categories: Mapping[str, Sequence[str]], size: int) -> "pd.Series":
    """A sampled column in the form that Evidently takes: floats with NaN for null, and text in which null is a category of its own."""
    drawn = sample(rows.select([column]), size)[column]
    found: pd.Series = _named(drawn, categories[column]).to_pandas() if column in categories else drawn.to_pandas().astype("float64")
    return found


def _named(column: pa.ChunkedArray, categories: Sequence[str]) -> pa.ChunkedArray:
    """Categories by their names: codes are looked up, text is taken as it is."""
    is_code = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    named = pa.array(categories, pa.string()).take(column.cast(pa.int64()).combine_chunks()) if is_code else column.cast(pa.string())
    # The page that Evidently makes takes a value that has a tag for a tag.
    found = (named if isinstance(named, pa.ChunkedArray) else pa.chunked_array([named])).combine_chunks().dictionary_encode()
    words = pa.array([None if word is None else in_page(word) for word in found.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([pc.fill_null(words.take(found.indices), UNKNOWN)])
