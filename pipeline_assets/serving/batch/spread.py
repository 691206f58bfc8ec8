"""How the answers of a range of days are spread, counted where they are kept, and drawn as a small PNG image."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, LiteralString

from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.plots import BLUE, GREY, canvas, png
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.serving.batch.answers import PREDICTED
from pipeline_assets.serving.batch.predictions import bounds, table_of
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Multiclass, Regression

if TYPE_CHECKING:
    from psycopg.sql import Composable

BINS = 20
# Between these quantiles a value is in a bin of its own; the first and the last bin hold all beyond, so that no outlier flattens the rest.
LOW, HIGH = 0.005, 0.995
SIZE = (6.0, 3.2)
BAR = 0.38


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Rows in equal bins of a number from `low` to `high`; those beyond are in the first and the last bin."""

    low: float
    high: float
    counts: tuple[int, ...]
    unit: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClassRows:
    """Per class, how many rows it is the likeliest of, and how many are to be expected by the probabilities of all rows."""

    classes: tuple[str, ...]
    likeliest: tuple[int, ...]
    expected: tuple[float, ...]


Spread = Histogram | ClassRows


def read_spread(settings: Settings, model: Model, first: date, last: date) -> Spread:
    """How the answers of the days `first` to `last` (UTC, inclusive, of decision_at) are spread: by class, or by number."""
    if isinstance(model.task, Multiclass):
        return _by_class(settings, model, (first, last), model.task.classes)
    if isinstance(model.task, Regression):
        low, high = _middle(settings, model, (first, last))
        return _histogram(settings, model, (first, last), low, high, model.task.unit)
    return _histogram(settings, model, (first, last), 0.0, 1.0)


def draw_spread(spread: Spread) -> bytes:
    """The picture of a spread."""
    return _draw_classes(spread) if isinstance(spread, ClassRows) else _draw_histogram(spread)


def _histogram(settings: Settings, model: Model, days: tuple[date, date], low: float, high: float, unit: str | None = None) -> Histogram:
    query = (
        "select greatest(1, least(%s, width_bucket({column}, %s::float8, %s::float8, %s))) as bin, count(*) "
        "from {table} where {within} and {is_finite} group by bin"
    )
    found = {int(number): int(rows) for number, rows in _select(settings, model, days, query, (BINS, low, high, BINS))}
    return Histogram(low=low, high=high, counts=tuple(found.get(number, 0) for number in range(1, BINS + 1)), unit=unit)


def _middle(settings: Settings, model: Model, days: tuple[date, date]) -> tuple[float, float]:
    """The bounds of all values but the outliers; apart from each other, also where all values are the same or there are none."""
    query = "select percentile_disc(array[%s, %s]::float8[]) within group (order by {column}) from {table} where {within} and {is_finite}"
    ((found,),) = _select(settings, model, days, query, (LOW, HIGH))
    low, high = found or (0.0, 1.0)
    return low, high if high > low else low + 1


def _by_class(settings: Settings, model: Model, days: tuple[date, date], classes: Sequence[str]) -> ClassRows:
    from psycopg.sql import SQL, Identifier

    columns = task_kind(model.task).score_columns()
    expected = SQL(", ").join(SQL("coalesce(sum({}), 0)").format(Identifier(column)) for column in columns)
    (sums,) = _select(settings, model, days, "select {expected} from {table} where {within}", (), expected=expected)
    counted = "select {predicted}, count(*) from {table} where {within} group by 1"
    rows = dict(_select(settings, model, days, counted, (), predicted=Identifier(PREDICTED)))
    return ClassRows(classes=tuple(classes), likeliest=tuple(int(rows.get(one, 0)) for one in classes), expected=tuple(map(float, sums)))


def _select(
    settings: Settings, model: Model, days: tuple[date, date], query: LiteralString, values: Sequence[float], **parts: "Composable"
) -> list[tuple[Any, ...]]:
    """The rows of a query on the predictions of the days; NaN is greater than any number in Postgres, and so is not finite."""
    from psycopg.sql import SQL, Identifier

    column = Identifier(task_kind(model.task).score_columns()[0])
    first, end = bounds(*days)
    composed = SQL(query).format(
        table=table_of(model),
        column=column,
        within=SQL("decision_at >= {} and decision_at < {}").format(first, end),
        is_finite=SQL("{0} > '-Infinity' and {0} < 'Infinity'").format(column),
        **parts,
    )
    with warehouse(settings) as connection:
        return connection.execute(composed, values).fetchall()


def _draw_histogram(spread: Histogram) -> bytes:
    label = "score" if spread.unit is None else f"value ({spread.unit}); the outer bars hold all beyond"
    figure, axes = canvas(SIZE, "Distribution of scores" if spread.unit is None else "Distribution of predicted values", label, "rows")
    width = (spread.high - spread.low) / len(spread.counts)
    edges = [spread.low + position * width for position in range(len(spread.counts))]
    axes.bar(edges, spread.counts, width=width, align="edge", color=BLUE, edgecolor="white")
    axes.set_xlim(spread.low, spread.high)
    axes.grid(visible=False, axis="x")
    return png(figure)


def _draw_classes(spread: ClassRows) -> bytes:
    size = (SIZE[0], max(SIZE[1], 0.4 * len(spread.classes) + 1.4))
    figure, axes = canvas(size, "Rows by class", "rows", "")
    places = range(len(spread.classes))
    axes.barh([place - BAR / 2 for place in places], spread.likeliest, height=BAR, color=BLUE, label="likeliest class")
    axes.barh([place + BAR / 2 for place in places], spread.expected, height=BAR, color=GREY, label="sum of the probabilities")
    axes.set_yticks(places, spread.classes)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.legend(frameon=False, fontsize=8)
    return png(figure)
