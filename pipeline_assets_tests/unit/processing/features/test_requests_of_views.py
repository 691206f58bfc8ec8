"""What a view is asked: the decisions of all models that use it, each once."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.processing.features.columns import DECISION_AT
from pipeline_assets.processing.features.materialize import requests_of
from pipeline_assets.processing.features.quality import judge
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.spec.models import Observations
from pipeline_assets_tests.feature_tables import INSTANT, NOON, event_tables, request_tables, view_of, view_table, views, windowed

ORDERS = Observations(table="orders", keys=("order_id",), decision_at="decision_at", event_at="decision_at")
VISITS = Observations(table="visits", keys=("visitor", "visit"), decision_at="began_at", event_at="began_at")

Asked = Sequence[tuple[Observations, pa.Table]]


def asked_by_both(orders: pa.Table, visits: pa.Table) -> Asked:
    """The observations of two models; those of the second have another name for the time of the decision."""
    return [(ORDERS, orders), (VISITS, visits.rename_columns({"decision_at": "began_at"}))]


def as_set(view: FeatureView, rows: pa.Table) -> set[tuple[Any, ...]]:
    """The distinct keys and times without null keys, by hand."""
    found = {tuple(row[name] for name in (*view.entity.keys, DECISION_AT)) for row in rows.to_pylist()}
    return {one for one in found if None not in one}


@settings(max_examples=100)
@given(view=views(), orders=request_tables(), visits=request_tables())
def test_a_view_is_asked_the_union_of_its_models(view: FeatureView, orders: pa.Table, visits: pa.Table) -> None:
    """Text, integer and two-column keys: every decision of either model is a row, each once, in the order of time and key."""
    requests = requests_of(view, asked_by_both(orders, visits))
    rows = [tuple(row.values()) for row in requests.select([DECISION_AT, *view.entity.keys]).to_pylist()]

    assert as_set(view, requests) == as_set(view, orders) | as_set(view, visits)
    assert len(rows) == len(set(rows))
    assert rows == sorted(rows)


@settings(max_examples=40)
@given(view=views(), orders=request_tables(), visits=request_tables(), history=event_tables())
def test_rows_of_a_model_do_not_depend_on_other_models(view: FeatureView, orders: pa.Table, visits: pa.Table, history: pa.Table) -> None:
    """What the union holds for the decisions of one model is what the view holds for that model alone."""
    alone = view_table(view, requests_of(view, [(ORDERS, orders)]), history).to_pylist()
    both = view_table(view, requests_of(view, asked_by_both(orders, visits)), history)
    table = both.to_pylist()

    assert [row for row in table if row in alone] == alone
    assert judge(requests_of(view, asked_by_both(orders, visits)), both, [*view.entity.keys, DECISION_AT]).has_all_rows


def keyed(key: pa.Array) -> pa.Table:
    """Observations of one place at noon."""
    return pa.table({"place": key, DECISION_AT: pa.array([NOON] * len(key), INSTANT)})


def test_encodings_of_a_key_are_one_key() -> None:
    """Large text and dictionaries, and integers of any width, are the same keys."""
    view = view_of(windowed("count", None))
    texts = [(ORDERS, keyed(pa.array(["a"], pa.large_string()))), (ORDERS, keyed(pa.array(["a"]).dictionary_encode()))]
    whole = [(ORDERS, keyed(pa.array([7], pa.int16()))), (ORDERS, keyed(pa.array([7], pa.int64())))]

    assert requests_of(view, texts).to_pylist() == [{"place": "a", DECISION_AT: NOON}]
    assert requests_of(view, whole).to_pylist() == [{"place": 7, DECISION_AT: NOON}]


def test_a_key_that_is_text_here_and_a_number_there_is_refused() -> None:
    """The error names the table, the column and both types."""
    with pytest.raises(TableMismatch, match=r"Table 'visits' has int64 in column 'place', other observations of view 'v' have string"):
        requests_of(view_of(windowed("count", None)), asked_by_both(keyed(pa.array(["a"])), keyed(pa.array([1]))))


def test_no_decisions_are_no_rows() -> None:
    """A day without decisions is empty, and its columns keep their types."""
    requests = requests_of(view_of(windowed("count", None)), [(ORDERS, keyed(pa.array([], pa.string())))])

    assert requests.num_rows == 0
    assert requests.schema.field(DECISION_AT).type == INSTANT
