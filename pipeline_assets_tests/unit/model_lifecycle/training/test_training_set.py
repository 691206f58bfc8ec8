"""Training sets: which decisions are in, with which label, in which block; and nothing from the future."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.core.errors import TableMismatch, TooLittleToLearn, UserInputError, ValueUnfit
from pipeline_assets.core.names import OBSERVATION_KNOWN_AT
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH
from pipeline_assets.model_lifecycle.training.blocks import BLOCKS, BlockName
from pipeline_assets.model_lifecycle.training.dataset import (
    BLOCK,
    LABEL,
    LABEL_KNOWN_AT,
    block_starts,
    blocks,
    build_training_set,
    leaks,
    matured_until,
    only,
)
from pipeline_assets.spec.models import Split
from pipeline_assets.spec.tasks import Task
from pipeline_assets_tests.model_rows import AS_OF, INSTANT, MULTICLASS, REGRESSION, START, labels, small_model, vectors

MODEL = small_model()
DAY = timedelta(days=1)
FEW = replace(MODEL, split=Split(train=4 * DAY, validation=2 * DAY, holdout=2 * DAY))


def _vectors(rows: list[tuple[str | None, datetime, str]]) -> pa.Table:
    keys, times, hashes = zip(*rows, strict=True)
    return pa.table({"flight_id": pa.array(keys, pa.string()), "decision_at": pa.array(times, INSTANT), FEATURE_HASH: list(hashes)})


def _labels(rows: list[tuple[str | None, bool | None, datetime]]) -> pa.Table:
    keys, late, times = zip(*rows, strict=True)
    return pa.table({"flight_id": pa.array(keys, pa.string()), "is_late": list(late), "known_at": pa.array(times, INSTANT)})


def _filled(
    extra: list[tuple[str, datetime, str]], days: tuple[int, ...] = (3, 7, 9)
) -> tuple[pa.Table, list[tuple[str | None, bool | None, datetime]]]:
    """Two decisions of both labels on each of the days of January, and `extra`; labels of the extra ones are up to the test."""
    times = [datetime(2013, 1, day, hour, tzinfo=UTC) for day in days for hour in (6, 7)]
    base = [(f"base-{number}", at, "x") for number, at in enumerate(times)]
    known = [(key, number % 2 == 0, at + timedelta(hours=1)) for number, (key, at, _) in enumerate(base)]
    return _vectors([*base, *extra]), list(known)


TENTH = datetime(2013, 1, 10, tzinfo=UTC)


def test_rows_are_those_with_a_label_known_at_as_of() -> None:
    """A label known exactly at as_of counts; one known a microsecond later, a null one and a missing one do not."""
    at = TENTH - 3 * timedelta(hours=1)
    asked, known = _filled([(key, at, "x") for key in ("on-time", "too-late", "unknown", "without")])
    known += [("on-time", True, TENTH), ("too-late", True, TENTH + timedelta(microseconds=1)), ("unknown", None, at)]

    built = build_training_set(FEW, asked, _labels(known), TENTH)

    assert [key for key in built["flight_id"].to_pylist() if not key.startswith("base")] == ["on-time"]


def test_a_decision_that_nobody_knew_of_is_not_learned_from() -> None:
    """Regression: an observation that was first known after `as_of` made a training set as of then another one when asked for again.

    One that was known at `as_of` counts, and so does one of which nobody knows since when it was.
    """
    at, late = TENTH - 3 * timedelta(hours=1), timedelta(microseconds=1)
    known_at = {"known": TENTH, "unknown": TENTH + late, "unsaid": None}
    asked, known = _filled([(key, at, "x") for key in known_at])
    times = [known_at.get(key, at) for key in asked["flight_id"].to_pylist()]
    since = asked.append_column(OBSERVATION_KNOWN_AT, pa.array(times, INSTANT))

    built = build_training_set(FEW, since, _labels([*known, *((key, True, TENTH) for key in known_at)]), TENTH)

    assert [key for key in built["flight_id"].to_pylist() if not key.startswith("base")] == ["known", "unsaid"]


def test_a_block_begins_with_its_first_moment_and_ends_before_its_last() -> None:
    """Blocks are half open; a decision before the first block or at as_of belongs to none."""
    edges = {
        "before": -8 * DAY - timedelta(microseconds=1),
        "train": -8 * DAY,
        "validation": -4 * DAY,
        "holdout": -2 * DAY,
        "after": 0 * DAY,
    }
    asked, known = _filled([(name, TENTH + offset, "x") for name, offset in edges.items()])
    known += [(name, True, TENTH) for name in edges]

    built = build_training_set(FEW, asked, _labels(known), TENTH)

    found = dict(zip(built["flight_id"].to_pylist(), built[BLOCK].to_pylist(), strict=True))
    assert {key: block for key, block in found.items() if key in edges} == {name: name for name in BLOCKS}


def test_the_label_known_last_by_then_holds() -> None:
    """A corrected label replaces the first one, unless the correction came after as_of."""
    at = TENTH - DAY
    asked, known = _filled([("corrected", at, "x"), ("corrected-later", at, "x")])
    known += [("corrected", False, at + DAY / 4), ("corrected", True, at + DAY / 2)]
    known += [("corrected-later", False, at + DAY / 4), ("corrected-later", True, TENTH + DAY)]

    built = build_training_set(FEW, asked, _labels(known), TENTH)

    late = dict(zip(built["flight_id"].to_pylist(), built[LABEL].to_pylist(), strict=True))
    assert (late["corrected"], late["corrected-later"]) == (True, False)


def test_repeated_vectors_count_once_and_null_keys_match_nothing() -> None:
    """The same vector twice is one row; a vector or label without a key is none."""
    at = TENTH - DAY
    asked, known = _filled([("twice", at, "x"), ("twice", at, "x")])
    asked = pa.concat_tables([asked, _vectors([(None, at, "x")])])
    known += [("twice", True, at + DAY / 2), (None, True, at + DAY / 2)]

    built = build_training_set(FEW, asked, _labels(known), TENTH)

    assert built["flight_id"].to_pylist().count("twice") == 1
    assert built["flight_id"].null_count == 0


def test_a_key_with_two_different_vectors_is_an_error() -> None:
    """Which of the two was known at the decision cannot be told, so neither is guessed."""
    at = TENTH - DAY
    asked, known = _filled([("torn", at, "x"), ("torn", at, "y")])

    with pytest.raises(TableMismatch, match="two different rows of flight_id 'torn'"):
        build_training_set(FEW, asked, _labels(known), TENTH)


def test_rows_are_sorted_by_decision_and_key_whatever_the_order_they_come_in() -> None:
    """The same rows in another order make the same training set."""
    asked = vectors(MODEL, 600)
    known = labels(MODEL, asked)
    backwards = pa.array(range(asked.num_rows - 1, -1, -1))

    built = build_training_set(MODEL, asked, known, AS_OF)
    other = build_training_set(MODEL, asked.take(backwards), known.take(backwards), AS_OF)

    assert built.equals(other)
    assert built["decision_at"].to_pylist() == sorted(built["decision_at"].to_pylist())


def test_all_columns_of_the_vectors_stay_as_they_are() -> None:
    """Values, nulls and types of the features go through unchanged."""
    asked = vectors(MODEL, 600)

    built = build_training_set(MODEL, asked, labels(MODEL, asked), AS_OF)

    before = asked.filter(pc.is_in(asked["flight_id"], built["flight_id"].combine_chunks().cast(pa.string())))
    for name in asked.column_names:
        assert built[name].to_pylist() == before[name].to_pylist()


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_with_one_kind_of_label_is_an_error_that_names_it(block: BlockName) -> None:
    """Nothing can be learned or judged where all outcomes are the same."""
    asked = vectors(MODEL, 600)
    known = labels(MODEL, asked)
    built = build_training_set(MODEL, asked, known, AS_OF)
    in_block = pc.is_in(known["flight_id"], only(built, block)["flight_id"].combine_chunks().cast(pa.string()))
    uniform = known.set_column(1, "is_late", pc.or_(known["is_late"], in_block))

    with pytest.raises(TooLittleToLearn, match=f"block '{block}'.*all with the label True.*Lengthen the block"):
        build_training_set(MODEL, asked, uniform, AS_OF)


def test_no_vectors_at_all_is_an_error() -> None:
    """An empty training set is refused, not returned."""
    asked = vectors(MODEL, 600)

    with pytest.raises(TooLittleToLearn, match="has no vectors"):
        build_training_set(MODEL, asked.slice(0, 0), labels(MODEL, asked), AS_OF)


def test_naive_times_are_refused() -> None:
    """A time without a zone is no instant, be it as_of or a column."""
    asked = vectors(MODEL, 600)
    known = labels(MODEL, asked)
    naive = asked.set_column(1, "decision_at", asked["decision_at"].cast(pa.timestamp("us")))

    with pytest.raises(UserInputError, match="is naive"):
        build_training_set(MODEL, asked, known, AS_OF.replace(tzinfo=None))
    with pytest.raises(TableMismatch, match="has decision_at as"):
        build_training_set(MODEL, naive, known, AS_OF)


@pytest.mark.parametrize("column", ["flight_id", "decision_at", FEATURE_HASH])
def test_a_missing_column_is_named(column: str) -> None:
    """Vectors without a column that the join needs are refused."""
    asked = vectors(MODEL, 600)

    with pytest.raises(TableMismatch, match=f"'vectors' lacks {column}"):
        build_training_set(MODEL, asked.drop_columns([column]), labels(MODEL, asked), AS_OF)


def test_blocks_have_their_times_and_rows() -> None:
    """Blocks follow each other without a gap, end at as_of, and hold all rows."""
    asked = vectors(MODEL, 600)
    built = build_training_set(MODEL, asked, labels(MODEL, asked), AS_OF)

    found = blocks(MODEL, built, AS_OF)

    assert [block.name for block in found] == list(BLOCKS)
    assert (found[0].start, found[-1].end) == (START, AS_OF)
    assert [block.end for block in found[:-1]] == [block.start for block in found[1:]]
    assert sum(block.rows for block in found) == built.num_rows
    assert sum(block.labels["positives"] for block in found) == pc.sum(built[LABEL]).as_py()


def test_a_built_set_does_not_leak_and_a_tampered_one_does() -> None:
    """The check counts labels from the future, decisions from the future, and labels known when they were asked for."""
    asked = vectors(MODEL, 600)
    built = build_training_set(MODEL, asked, labels(MODEL, asked), AS_OF)
    place = built.column_names.index(LABEL_KNOWN_AT)
    early = built.set_column(place, LABEL_KNOWN_AT, built["decision_at"])

    assert leaks(MODEL, built, AS_OF).rows == 0
    assert leaks(MODEL, early, AS_OF).labels_before_their_decision == built.num_rows
    earlier = leaks(MODEL, built, AS_OF - DAY)
    assert earlier.decisions_from_the_future > 0
    assert earlier.labels_from_the_future > earlier.decisions_from_the_future


HORIZON = timedelta(days=2)
# One day in each block that ends two days before the tenth.
RIPE_DAYS = (3, 5, 7)
LATE = replace(FEW, label=replace(FEW.label, horizon=HORIZON))


def test_with_a_horizon_blocks_end_where_labels_have_matured() -> None:
    """Two days before as_of the hold-out ends, and the other blocks lie before it, each as long as declared."""
    starts = block_starts(LATE.split, matured_until(LATE, TENTH))

    assert matured_until(LATE, TENTH) == TENTH - HORIZON
    assert [TENTH - HORIZON - starts[name] for name in BLOCKS] == [8 * DAY, 4 * DAY, 2 * DAY]
    assert matured_until(FEW, TENTH) == TENTH


def test_before_its_horizon_a_label_is_unknown_whatever_it_is() -> None:
    """Regression: a refund of yesterday was known today, a purchase that stays without one was not, and recent rows were all positive."""
    asked, known = _filled([("ripe", TENTH - HORIZON - timedelta(microseconds=1), "x"), ("early", TENTH - HORIZON, "x")], RIPE_DAYS)
    known += [("ripe", True, TENTH - HORIZON), ("early", True, TENTH - HORIZON + timedelta(hours=1))]

    built = build_training_set(LATE, asked, _labels(known), TENTH)

    assert "ripe" in built["flight_id"].to_pylist()
    assert "early" not in built["flight_id"].to_pylist()
    assert leaks(LATE, built, TENTH).rows == 0
    assert leaks(LATE, built, TENTH - HORIZON).decisions_from_the_future > 0


def test_with_a_horizon_the_label_known_last_at_as_of_still_holds() -> None:
    """A correction after the horizon counts if it was known when training was asked."""
    asked, known = _filled([("corrected", TENTH - 3 * DAY, "x")], RIPE_DAYS)
    known += [("corrected", False, TENTH - 2 * DAY), ("corrected", True, TENTH)]

    built = build_training_set(LATE, asked, _labels(known), TENTH)

    assert dict(zip(built["flight_id"].to_pylist(), built[LABEL].to_pylist(), strict=True))["corrected"] is True


def test_labels_that_come_after_the_hold_out_bring_the_advice_to_declare_a_horizon() -> None:
    """Regression: a hold-out of a week with labels after two had no rows, and the advice was to shorten it."""
    asked = vectors(MODEL, 600)
    late = labels(MODEL, asked)
    late = late.set_column(2, "known_at", pc.add(asked["decision_at"], pa.scalar(14 * DAY, pa.duration("us"))))

    with pytest.raises(TooLittleToLearn, match="none with a label known by then") as lacking:
        build_training_set(MODEL, asked, late, AS_OF)
    with pytest.raises(TooLittleToLearn, match="Materialize cleaned/departures_history") as nothing:
        build_training_set(MODEL, asked, late.slice(0, 0), AS_OF)

    assert "14 days, 0:00:00 after their decisions (median), and it declares no horizon" in str(lacking.value)
    assert "Declare a horizon" in str(lacking.value)
    assert "flight_id" in str(nothing.value)
    ripe = replace(MODEL, label=replace(MODEL.label, horizon=14 * DAY), split=Split(train=8 * DAY, validation=3 * DAY, holdout=3 * DAY))
    assert {block.name for block in blocks(ripe, build_training_set(ripe, asked, late, AS_OF), AS_OF) if block.rows} == set(BLOCKS)


def test_several_keys_of_text_and_integers_are_joined_as_one() -> None:
    """Station and bike together name a decision; a label of one of them alone matches nothing, nor does one with a null."""
    two = replace(
        FEW,
        observations=replace(FEW.observations, keys=("station", "bike")),
        label=replace(FEW.label, keys=("place", "bike_number")),
    )
    times = [datetime(2013, 1, day, hour, tzinfo=UTC) for day in (3, 7, 9) for hour in (6, 7)]
    asked = pa.table(
        {
            "station": ["a", "a", "b", "b", "a", "a"],
            "bike": pa.array([1, 2, 1, 2, 3, 4], pa.int64()),
            "decision_at": pa.array(times, INSTANT),
            FEATURE_HASH: ["x"] * 6,
        }
    )
    known = pa.table(
        {
            "place": ["a", "a", "b", "b", "a", "a", "b", None],
            "bike_number": pa.array([1, 2, 1, 2, 3, 4, 4, 1], pa.int32()),
            "is_late": [True, False, False, True, True, False, True, False],
            "known_at": pa.array([*(at + timedelta(hours=1) for at in times), TENTH, TENTH], INSTANT),
        }
    )

    built = build_training_set(two, asked, known, TENTH)

    found = list(zip(built["station"].to_pylist(), built["bike"].to_pylist(), built[LABEL].to_pylist(), strict=True))
    assert found == [("a", 1, True), ("a", 2, False), ("b", 1, False), ("b", 2, True), ("a", 3, True), ("a", 4, False)]
    assert "place" not in built.column_names
    with pytest.raises(TableMismatch, match="has the key bike_number as String, where Int64 was expected, as in bike"):
        build_training_set(two, asked, known.set_column(1, "bike_number", known["bike_number"].cast(pa.string())), TENTH)
    doubled = pa.concat_tables([asked, asked.slice(2, 1).set_column(3, FEATURE_HASH, [["y"]])])
    with pytest.raises(TableMismatch, match="two different rows of station 'b', bike '1'"):
        build_training_set(two, doubled, known, TENTH)


@pytest.mark.parametrize("task", [MULTICLASS, REGRESSION], ids=lambda task: type(task).__name__)
def test_labels_keep_what_they_are(task: Task) -> None:
    """Text stays text and a number a number; blocks sum them up as the task does."""
    model = small_model(task=task)
    asked = vectors(model, 600)
    known = labels(model, asked)

    built = build_training_set(model, asked, known, AS_OF)

    outcomes = dict(zip(known["flight_id"].to_pylist(), known["is_late"].to_pylist(), strict=True))
    assert built[LABEL].to_pylist() == [outcomes[key] for key in built["flight_id"].to_pylist()]
    first = blocks(model, built, AS_OF)[0]
    inside = [outcomes[key] for key in only(built, "train")["flight_id"].to_pylist()]
    expected = {name: inside.count(name) for name in MULTICLASS.classes} if task == MULTICLASS else {"min": min(inside), "max": max(inside)}
    assert {name: first.labels[name] for name in expected} == expected


def test_a_class_that_training_never_sees_is_named() -> None:
    """Every declared class is needed to learn from."""
    model = small_model(task=MULTICLASS)
    asked = vectors(model, 600)
    known = labels(model, asked)
    never = known.filter(pc.not_equal(known["is_late"], "cancelled"))

    with pytest.raises(TooLittleToLearn, match=r"block 'train'.*none of the class 'cancelled'"):
        build_training_set(model, asked, never, AS_OF)


def test_a_label_that_does_not_fit_its_task_is_refused() -> None:
    """Regression: numbers were taken for true or false."""
    asked = vectors(MODEL, 600)
    numbers = labels(MODEL, asked)
    numbers = numbers.set_column(1, "is_late", numbers["is_late"].cast(pa.int64()))

    with pytest.raises(TableMismatch, match="'labels' has the label is_late as int64, where a boolean"):
        build_training_set(MODEL, asked, numbers, AS_OF)


def test_a_label_that_no_32_bit_float_holds_is_named_with_its_key() -> None:
    """Regression: it was finite with 64 bits, and became infinite inside XGBoost."""
    model = small_model(task=REGRESSION)
    asked = vectors(model, 600)
    known = labels(model, asked).slice(0, 1)
    known = known.set_column(1, "is_late", pa.array([-1e39]))

    with pytest.raises(ValueUnfit, match=rf"in the label is_late, the first -1e\+39 in row 1 \(flight_id {known['flight_id'][0]}\)"):
        build_training_set(model, asked, known, AS_OF)


HOURS = st.integers(0, 9 * 24).map(lambda hours: datetime(2013, 1, 1, tzinfo=UTC) + timedelta(hours=hours))
KEYS = st.sampled_from([*"abcdefgh", None])


@settings(max_examples=60)
@given(
    asked=st.dictionaries(KEYS, HOURS, max_size=9),
    known=st.lists(st.tuples(KEYS, st.booleans() | st.none(), HOURS), max_size=24),
)
def test_it_equals_a_brute_force_join(asked: dict[str | None, datetime], known: list[tuple[str | None, bool | None, datetime]]) -> None:
    """Row by row the same as looking at every label of every decision, with ties, late labels, corrections and nulls."""
    base, filled = _filled([])
    told = filled + known
    questions = [*zip(base["flight_id"].to_pylist(), base["decision_at"].to_pylist(), strict=True), *asked.items()]
    expected = {}
    for key, at in questions:
        outcomes = sorted((when, late) for name, late, when in told if name == key and late is not None and when <= TENTH)
        if key is not None and TENTH - 8 * DAY <= at < TENTH and outcomes:
            expected[key] = (outcomes[-1][1], "holdout" if at >= TENTH - 2 * DAY else "validation" if at >= TENTH - 4 * DAY else "train")

    built = build_training_set(FEW, _vectors([(key, at, "x") for key, at in questions]), _labels(told), TENTH)

    found = zip(built["flight_id"].to_pylist(), built[LABEL].to_pylist(), built[BLOCK].to_pylist(), strict=True)
    assert {key: (late, block) for key, late, block in found} == expected
