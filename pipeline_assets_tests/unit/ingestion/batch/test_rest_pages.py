"""Pages of a REST API: what is taken out of them, and which are refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.ingestion.batch.rest import read_page


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


@pytest.mark.parametrize("content", [b'{"rows": [], "next_cursor": null}', b'{"rows": []}', b'{"next_cursor":null,"rows":[ ]}'])
def test_the_last_page_has_no_cursor(content: bytes) -> None:
    """A cursor that is null or absent ends the pages."""
    page = read_page("readings", content, "rows")

    assert page.records == []
    assert page.next_cursor is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"42", b"<html>busy</html>", b'{"rows": [1', b'{"rows": [1]', b'{"rows": [1]} {}', b'{"rows": [tru]}',
        b"{}", b'{"rows": null}', b'{"rows": {}}', b'{"rows": [], "next_cursor": 2}', b'{"rows": ' + b"[" * 100_000,
    ],
)  # fmt: skip
def test_an_answer_that_is_no_page_is_refused(content: bytes) -> None:
    """What is not an object with the list of records and a cursor that is text names source and answer, and ends the load."""
    with pytest.raises(SourceRefused, match="readings"):
        read_page("readings", content, "rows")


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
