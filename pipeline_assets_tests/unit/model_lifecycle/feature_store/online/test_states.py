"""States: whatever rows came, changed and vanished, and in whatever order, the features are those of the offline kernel, bit for bit."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_assets.core.aggregates import AGGREGATES
from pipeline_assets.core.columns import ColumnKind
from pipeline_assets.model_lifecycle.feature_store.online import state as states_module
from pipeline_assets.model_lifecycle.feature_store.online.answers import Answers, features_at, moment_of
from pipeline_assets.model_lifecycle.feature_store.online.codec import packed, unpacked
from pipeline_assets.model_lifecycle.feature_store.online.finished import Forms, finished
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout, layout_of
from pipeline_assets.model_lifecycle.feature_store.online.rows import ROW_KEY, Events, Rows, distinct_keys, entity_texts, no_rows, rows_of
from pipeline_assets.model_lifecycle.feature_store.online.state import NO_BASE, States, built, changed, empty, replaced
from pipeline_assets.processing.features.arrays import KIND_OF, FeatureArrays
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.processing.features.columns import instants
from pipeline_assets.processing.features.view import feature_names, view_features
from pipeline_assets.spec.features import FeatureView, Windowed
from pipeline_assets_tests.feature_tables import event_tables, views

KINDS: dict[str, ColumnKind] = {
    "amount": "number",
    "pieces": "integer",
    "is_late": "boolean",
    "color": "string",
    "built_on": "date",
    "promised_at": "timestamp",
}


def with_row_keys(events: pa.Table) -> pa.Table:
    """The events, each a row of its own."""
    return events.append_column(ROW_KEY, pa.array([str(row) for row in range(events.num_rows)], pa.string()))


def with_total_order(view: FeatureView) -> FeatureView:
    """The view with ties broken to the last: by the row, where all that it declares is equal, as a store has no positions of rows."""
    return replace(view, source=replace(view.source, order_by=(*view.source.order_by, ROW_KEY)))


def keyed(layout: Layout, events: pa.Table, keys: Sequence[str]) -> Rows:
    """The rows of the keys, without those that have none."""
    found = [-1 if text is None else keys.index(text) for text in entity_texts(layout.view.entity, events, "events")]
    rows = rows_of(layout, Events(source=layout.view.source, table=events), np.array(found, np.int64))
    return rows.take(rows.key >= 0)


def table_of_answers(layout: Layout, answers: Answers) -> pa.Table:
    """The features of a view as a table."""
    columns = view_columns(layout.view)
    kinds, own = tuple(KIND_OF[one.dtype] for one in columns), tuple(one.name for one in columns)
    return FeatureArrays(names=own, kinds=kinds, bits=answers.bits, present=answers.present, texts=answers.texts).table()


def rows_of_table(features: pa.Table) -> list[dict[str, object]]:
    """The rows of a table, floats by their bits."""
    columns = {name: features[name] for name in features.column_names}
    bits = {
        name: one.to_pylist() if not pa.types.is_float64(one.type) else list(map(hex_of, one.to_pylist())) for name, one in columns.items()
    }
    return [dict(zip(bits, row, strict=True)) for row in zip(*bits.values(), strict=True)]


def hex_of(value: float | None) -> str | None:
    """A float as its bits."""
    return None if value is None else value.hex()


class Course:
    """Rows that come and go in steps, and the states that follow them."""

    def __init__(self, layout: Layout, events: pa.Table, keys: Sequence[str]) -> None:
        self.layout, self.events, self.keys = layout, events, keys
        self.held: list[int] = []
        self.states: States = empty(layout, len(keys))

    def rows(self, places: Sequence[int]) -> Rows:
        """Some rows of the events."""
        if not places:
            return no_rows(self.layout)
        return keyed(self.layout, self.events.take(pa.array(places, pa.int64())), self.keys)

    def step(self, gone: Sequence[int], come: Sequence[int], until: int, base_at: int) -> None:
        """Takes rows away and adds others; keys that have to be are built from their rows."""
        self.held = [one for one in self.held if one not in gone] + list(come)
        self.states, is_broken = changed(self.states, self.rows(gone), self.rows(come), until, base_at)
        broken = np.flatnonzero(is_broken)
        if len(broken):
            rows = self.rows(self.held)
            own = rows.take(is_broken[rows.key])
            anew = built(self.layout, own.with_key(np.searchsorted(broken, own.key)), self.states.base_at[broken])
            self.states = replaced(self.states, broken, anew)
        assert packed(self.layout, unpacked(self.layout, packed(self.layout, self.states))) == packed(self.layout, self.states)
        self.states = unpacked(self.layout, list(packed(self.layout, self.states)))


@st.composite
def courses(draw: st.DrawFn, events: pa.Table) -> list[tuple[list[int], list[int]]]:
    """Steps in which all rows come, in any order, some of them go again, and some of these come back."""
    order = list(draw(st.permutations(range(events.num_rows))))
    steps, held = [], list[int]()
    while order:
        come = [order.pop() for _ in range(min(len(order), draw(st.integers(1, 9))))]
        gone = draw(st.lists(st.sampled_from(held), max_size=4, unique=True)) if held else []
        held = [one for one in held if one not in gone] + come
        order = order + [one for one in gone if draw(st.integers(0, 3)) == 0]
        steps.append((gone, come))
    gone = draw(st.lists(st.sampled_from(held), max_size=4, unique=True)) if held else []
    return [*steps, (gone, [])]


def interesting(events: pa.Table) -> list[int]:
    """The times at which an answer can change, and others around them."""
    times = np.concatenate([instants(events, "events", column, unless=0) for column in ("event_at", "known_at", "superseded_at")])
    around = np.concatenate([times, times + 1, times + 300_000_000, times + 3_600_000_000, times + 86_400_000_000, [0]])
    return sorted(set(around.tolist()))


def expected_features(view: FeatureView, events: pa.Table, text: str, at: Sequence[int]) -> pa.Table:
    """What the offline kernel gives for one key at some times."""
    schema = events.select(view.entity.keys).schema.append(pa.field("decision_at", events.schema.field("event_at").type))
    parts = text.split("\x1f")
    values = {key: int(part) if key == "gate" else part for key, part in zip(view.entity.keys, parts, strict=True)}
    asked = {**{key: [value] * len(at) for key, value in values.items()}, "decision_at": pa.array(at, pa.timestamp("us", "UTC"))}
    return view_features(view, pa.table(asked, schema=schema), events)


def with_parts(view: FeatureView, parts: set[str]) -> FeatureView:
    """The view with those windows alone of which no more than these parts are kept."""
    windows = [one for one in view.features if isinstance(one, Windowed) and set(AGGREGATES[one.aggregate].parts) <= parts]
    return replace(view, features=tuple(windows))


def narrow_views() -> st.SearchStrategy[FeatureView]:
    """Views of all features; or of sums alone, which no row that goes has to be looked for again; or of sums and extremes."""
    added = {"count", "sum", "squares"}
    return views().flatmap(lambda view: st.sampled_from([view, with_parts(view, added), with_parts(view, {*added, "extreme"})]))


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), view=narrow_views(), events=event_tables())
@pytest.mark.parametrize("apart", [2, 128])
def test_features_equal_those_of_the_offline_kernel(apart: int, data: st.DataObject, view: FeatureView, events: pa.Table) -> None:
    """Corrections, deletions, ties, late rows, disorder, nulls: from the base of each key on every feature has the kernel's bits.

    So have finished values while they hold; and each state goes through its bytes after each step.
    """
    view = with_total_order(view)
    events, layout = with_row_keys(events), layout_of(view, KINDS)
    keys = sorted({text for text in entity_texts(view.entity, events, "events") if text is not None})
    course, times = Course(layout, events, keys), interesting(events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states_module, "RECENT_ROWS", apart)
        for gone, come in data.draw(courses(events)):
            base_at, until = sorted((data.draw(st.sampled_from(times)), data.draw(st.sampled_from(times))))
            course.step(gone, come, min(until, base_at + 3_600_000_000), base_at)
    done = finished(layout, course.states, times[-1])
    held = events.take(pa.array(course.held, pa.int64()))
    for key, text in enumerate(keys):
        base_at = int(course.states.base_at[key])
        later = [one for one in times if one >= base_at]
        at = [base_at, *(data.draw(st.lists(st.sampled_from(later), max_size=4)) if later else [])]
        at = at if base_at > NO_BASE else at[1:]
        expected = expected_features(view, held, text, at)
        for row, one in enumerate(at):
            moment = moment_of(layout, course.states, np.maximum(course.states.base_at, one))
            answer = rows_of_table(table_of_answers(layout, features_at(moment)))[key]
            assert list(answer) == list(feature_names(view))
            if done.since[key] <= one < done.until[key]:
                kept = Forms([layout]).answers([[done.values[key]]], np.array([one]))
                assert rows_of_table(table_of_answers(layout, kept)) == [answer]
            assert answer == rows_of_table(expected)[row]


@settings(max_examples=50)
@given(data=st.data(), view=views(), events=event_tables())
def test_entity_keys_are_found_once_each(data: st.DataObject, view: FeatureView, events: pa.Table) -> None:
    """Each row has the number of its key, whatever its parts are; a row without a key has none; each key is that of the row it names."""
    places = st.lists(st.integers(0, events.num_rows - 1), max_size=8) if events.num_rows else st.just(list[int]())
    rows = events.take(pa.array(data.draw(places), pa.int64()))
    texts = entity_texts(view.entity, rows, "rows")
    found = distinct_keys(view.entity, rows, "rows")
    assert [None if number < 0 else found.texts[number] for number in found.number.tolist()] == texts
    assert [texts[place] for place in found.first.tolist()] == found.texts
    assert len(set(found.texts)) == len(found.texts)
