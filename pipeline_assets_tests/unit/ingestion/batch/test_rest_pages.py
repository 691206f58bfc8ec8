"""Pages of a REST API: what is taken out of them, and which are refused."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.ingestion.batch.pages import read_page
from pipeline_assets.ingestion.batch.rest import _retry_after
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets_tests.readings import READINGS, reading

# As HTTP has them in every locale.
DAYS = ("Mon", "Tues", "Wednes", "Thurs", "Fri", "Satur", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def test_records_keep_the_bytes_that_they_had() -> None:
    """Spaces, the order of fields, escapes and numbers stay as they were written, whatever stands around them."""
    content = b' {"total": 2, "rows" : [ {"b": 1.50,  "a":"\\u00e9"} ,\n [1] , "x"], "next_cursor": "c-2", "meta": {"rows": []}} '

    page = read_page("readings", content, "rows")

    assert page.records == [b'{"b": 1.50,  "a":"\\u00e9"}', b"[1]", b'"x"']
    assert page.next_cursor == "c-2"


def test_bytes_that_are_no_text_break_only_the_record_they_stand_in() -> None:
    """A record that is not UTF-8 comes back byte for byte, to be quarantined; the page is read all the same."""
    page = read_page("readings", b'{"rows": [{"a": "\xff"}, {"a": "b"}], "next_cursor": null}', "rows")

    assert page.records == [b'{"a": "\xff"}', b'{"a": "b"}']


@pytest.mark.parametrize(
    "content",
    [
        b'{"rows": [], "next_cursor": null}', b'{"rows": []}', b'{"next_cursor":null,"rows":[ ]}', b'{"rows": [], "next_cursor": ""}',
        b'{"rows": null}', b'\xef\xbb\xbf{"rows": [], "errors": []}',
    ],
)  # fmt: skip
def test_the_last_page_has_no_cursor(content: bytes) -> None:
    """A cursor that is null, empty or absent ends the pages; a list that is null is empty, and a byte order mark is passed over."""
    page = read_page("readings", content, "rows")

    assert page.records == []
    assert page.next_cursor is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"42", b"<html>busy</html>", b'{"rows": [1', b'{"rows": [1]', b'{"rows": [1]} {}', b'{"rows": [tru]}',
        b"{}", b'{"rows": {}}', b'{"rows": [], "next_cursor": true}', b'{"rows": [], "next_cursor": ["c"]}',
        b'{"rows": [], "next_cursor": "\\ud800"}', b'{"rows": [], "next_cursor": "\xff"}', b'{"rows": ' + b"[" * 100_000,
        b'{"rows": [1,]}', b'{"rows": [1],}', b'{1: 2, "rows": []}', b'{"rows": null, "error": "busy"}', b'{"rows": null, "errors": [{}]}',
        b'{"rows": [{"a": 1}], "rows": []}', b'{"rows": [], "next_cursor": "2", "next_cursor": null}', b'{"rows": [], "r\\u006fws": []}',
    ],
)  # fmt: skip
def test_an_answer_that_is_no_page_is_refused(content: bytes) -> None:
    """What is not an object with one list of the records and at most one cursor names the source, and ends the load."""
    with pytest.raises(SourceRefused, match="readings"):
        read_page("readings", content, "rows")


@pytest.mark.parametrize("cursor", [b"2", b"-1.50e3", b"12345678901234567890123", b"7" * 5000])
def test_a_cursor_may_be_a_number(cursor: bytes) -> None:
    """It is sent back as it was written, with all of its digits."""
    assert read_page("readings", b'{"rows": [], "next_cursor": ' + cursor + b"}", "rows").next_cursor == cursor.decode()


@pytest.mark.parametrize("value", [b"7" * 5000, b"1e999999", b"[" * 100_000 + b"]" * 100_000, b'"\xff"', b'"\x01"', b'"\\ud800"'])
@pytest.mark.parametrize("name", [b"level", b"colour"])
def test_one_value_breaks_its_record_alone(name: bytes, value: bytes) -> None:
    """Whatever stands in one record, those before and after it are read, and each keeps its bytes."""
    fine = json.dumps(reading(), default=datetime.isoformat).encode()
    odd = b'{"' + name + b'": ' + value + b"}"

    page = read_page("readings", b'{"rows": [' + b", ".join([fine, odd, fine]) + b"]}", "rows")
    checked = check_json_rows(READINGS, page.records)

    assert page.records == [fine, odd, fine]
    assert list(checked.positions) == [0, 2]
    assert [row.position for row in checked.broken] == [1]


@pytest.mark.parametrize("form", ["imf-fixdate", "rfc850", "asctime", "seconds", "fraction"])
def test_a_server_may_say_when_in_all_forms(form: str) -> None:
    """The three forms of HTTP's dates, all of them GMT, and seconds."""
    soon = datetime.now(UTC) + timedelta(seconds=60)
    day, month = DAYS[soon.weekday()], MONTHS[soon.month - 1]
    written = {
        "imf-fixdate": format_datetime(soon, usegmt=True),
        "rfc850": f"{day}day, {soon.day:02}-{month}-{soon:%y %H:%M:%S} GMT",
        "asctime": f"{day[:3]} {month} {soon.day:2} {soon:%H:%M:%S %Y}",
        "seconds": "60",
        "fraction": "60.5",
    }

    assert 55 < (_retry_after(written[form]) or 0) < 61


@pytest.mark.parametrize("header", [None, "", "soon", "-5", "1e3", "Sun, 99 Foo 2026 00:00:00 GMT", "Mon, 01 Jan 99999999 00:00:00 GMT"])
def test_what_is_no_time_is_no_wish(header: str | None) -> None:
    """A header that says nothing leaves the pause to the reader."""
    assert _retry_after(header) is None


def test_a_time_in_the_past_is_now() -> None:
    """A server whose clock is behind is asked again at once."""
    assert _retry_after("Sun Nov  6 08:49:37 1994") == 0


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('aé"\\ \n', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("rows", max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    records=st.lists(anything, max_size=5),
    around=st.dictionaries(st.text("abc", max_size=3), anything, max_size=3),
    indent=st.none() | st.just(1),
)
def test_the_records_of_any_page_are_found(records: list[object], around: dict[str, object], indent: int | None) -> None:
    """Each record of a page, parsed by itself, is the record that was written, however deep its values are nested."""
    content = json.dumps(around | {"rows": records, "next_cursor": "c"}, indent=indent).encode()

    page = read_page("readings", content, "rows")

    assert repr([json.loads(record) for record in page.records]) == repr(records)
    assert page.next_cursor == "c"
