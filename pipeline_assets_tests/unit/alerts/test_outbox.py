"""What waits for each endpoint: by owner, in one message, tried later each time, given up aloud, and never mixed up with another's."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.alerts import outbox
from pipeline_assets.alerts.incidents import Finding, News
from pipeline_assets.alerts.outbox import BACK_OFF, GIVEN_UP_AFTER, MOST_SHOWN, MOST_WAITING, Waiting, endpoint_of

START = datetime(2024, 5, 1, 12, tzinfo=UTC)
OPS, ML, ALL = "json://ops.example/SECRET", "json://ml.example/SECRET", "json://all.example/SECRET"
URLS = {"ops@x.example": [OPS], "ml@x.example": [ML], "*": [ALL]}
PAGES = "http://127.0.0.1:3000"


def news(title: str, *owners: str) -> News:
    """That something began."""
    return News(kind="begun", finding=Finding(cause=title, is_bad=True, at=START, title=title, owners=owners), since=START)


def test_news_go_to_their_owners_and_all_others_to_the_rest() -> None:
    """Of two owners each has it; one without an endpoint of their own, or no owner at all, is what `*` is for."""
    found = [
        outbox.routed(news("a", *owners), URLS)
        for owners in ((), ("ops@x.example",), ("ops@x.example", "ml@x.example"), ("new@x.example", "ml@x.example"))
    ]

    assert found == [{endpoint_of(ALL)}, {endpoint_of(OPS)}, {endpoint_of(OPS), endpoint_of(ML)}, {endpoint_of(ALL), endpoint_of(ML)}]
    assert outbox.routed(news("a", "ops@x.example"), {"ops@x.example": [], "*": [ALL]}) == {endpoint_of(ALL)}


def test_all_that_is_new_is_one_message() -> None:
    """Its title counts, its body has a paragraph each up to a limit, and says how many more there are and were lost."""
    waiting = outbox.put({}, [news(f"cause {number}") for number in range(MOST_WAITING + 3)], URLS)[endpoint_of(ALL)]
    found = outbox.message(waiting, PAGES)

    assert found.title == f"{MOST_WAITING} new: cause 3 …"
    assert found.body.count("NEW: ") == MOST_SHOWN
    assert f"And {MOST_WAITING - MOST_SHOWN} more, see {PAGES}." in found.body
    assert "3 earlier alerts could not be delivered here" in found.body
    assert found.number in found.body
    assert outbox.message(waiting, PAGES) == found


def test_a_dead_endpoint_is_tried_later_each_time_and_given_up_aloud() -> None:
    """The waits grow to an hour; after three days what waits is dropped and counted, and the next message says so."""
    now, waiting, tries = START, outbox.put({}, [news("a"), news("b")], URLS), list[timedelta]()
    while waiting[endpoint_of(ALL)].news:
        assert outbox.due(waiting, now) == [endpoint_of(ALL)]
        waiting = outbox.failed(waiting, endpoint_of(ALL), now)
        next_at = waiting[endpoint_of(ALL)].next_at
        tries += [] if next_at is None else [next_at - now]
        now = now if next_at is None else next_at
    again = outbox.put(waiting, [news("c")], URLS)

    assert tuple(tries[: len(BACK_OFF)]) == BACK_OFF
    assert GIVEN_UP_AFTER <= now - START < GIVEN_UP_AFTER + BACK_OFF[-1]
    assert waiting[endpoint_of(ALL)] == Waiting(lost=2)
    assert outbox.due(again, now) == [endpoint_of(ALL)]
    assert "2 earlier alerts could not be delivered here" in outbox.message(again[endpoint_of(ALL)], PAGES).body


def test_no_url_is_kept_nor_what_waits_for_one_that_is_named_no_more() -> None:
    """The cursor has digests in the place of secrets."""
    waiting = outbox.put({}, [news("a"), news("b", "ops@x.example")], URLS)

    assert "SECRET" not in json.dumps(outbox.dumped_outbox(waiting))
    assert set(outbox.put(waiting, [], {"*": [OPS]})) == {endpoint_of(OPS)}


def test_news_are_kept_once_however_many_endpoints_wait_for_them() -> None:
    """The cursor is written at each look. Each endpoint has its own again after it."""
    urls = {"*": [f"json://{number}.example" for number in range(20)], "ops@x.example": [OPS]}
    waiting = outbox.put({}, [news("for all"), news("for ops", "ops@x.example"), news("for all again")], urls)
    kept = json.dumps(outbox.dumped_outbox(waiting))

    assert [kept.count(f'"title": "{title}"') for title in ("for all", "for ops", "for all again")] == [1, 1, 1]
    assert outbox.outbox_of(json.loads(kept)) == waiting


steps = st.lists(
    st.tuples(st.lists(st.sampled_from(["ops@x.example", "ml@x.example", ""]), max_size=4), st.booleans(), st.booleans()), max_size=10
)


@given(steps=steps)
def test_each_endpoint_gets_its_own_news_once_and_in_order(steps: Sequence[tuple[list[str], bool, bool]]) -> None:
    """Whatever fails in between: an endpoint has what was for it, without gap, repeat or what was for another one.

    At each step news come, each endpoint in turn takes what is due or not, and the outbox passes through JSON.
    """
    now, waiting, number = START, dict[str, Waiting](), 0
    meant, got = dict[str, list[str]](), dict[str, list[str]]()
    for owners, ops_lives, ml_lives in [*steps, ([], True, True)]:
        lives = {endpoint_of(OPS): ops_lives, endpoint_of(ML): ml_lives, endpoint_of(ALL): True}
        fresh = [news(str(number + index), *([owner] if owner else [])) for index, owner in enumerate(owners)]
        number += len(fresh)
        for one in fresh:
            for endpoint in outbox.routed(one, URLS):
                meant.setdefault(endpoint, []).append(one.finding.title)
        waiting = outbox.outbox_of(json.loads(json.dumps(outbox.dumped_outbox(outbox.put(waiting, fresh, URLS)))))
        now += BACK_OFF[-1]
        for endpoint in outbox.due(waiting, now):
            if lives[endpoint]:
                got.setdefault(endpoint, []).extend(one.finding.title for one in waiting[endpoint].news)
            waiting = outbox.delivered(waiting, endpoint) if lives[endpoint] else outbox.failed(waiting, endpoint, now)

    assert got == meant
    assert waiting == {}
