"""The trace of a request, by W3C Trace Context."""

import pytest

from pipeline_assets.serving.realtime.access.traces import header_of, trace_of

ID, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
UNFIT = ["", "00", f"ff-{ID}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{ID}-{'0' * 16}-01", f"00-{ID.upper()}-{SPAN}-01",
         f"00-{ID}-{SPAN}-01-more", f"00-{ID}-{SPAN}-1", f"0-{ID}-{SPAN}-01"]  # fmt: skip


@pytest.mark.parametrize(("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)])
def test_a_caller_says_trace_span_and_whether_it_is_recorded(flags: str, is_sampled: bool) -> None:  # noqa: FBT001 - an expected value
    """By the lowest bit of the flags alone; the header is passed on as it came."""
    header = f"00-{ID}-{SPAN}-{flags}".encode()
    found = trace_of({b"traceparent": header})

    assert (found.trace_id, found.parent_id, found.is_sampled, found.header) == (ID, SPAN, is_sampled, header)


def test_a_later_version_may_say_more() -> None:
    """What is known of it is read, and passed on as of this version."""
    found = trace_of({b"traceparent": f"01-{ID}-{SPAN}-01-more".encode()})

    assert (found.trace_id, found.is_sampled) == (ID, True)
    assert found.header == f"00-{ID}-{SPAN}-01".encode()


@pytest.mark.parametrize("header", UNFIT)
def test_what_is_no_trace_begins_a_new_one(header: str) -> None:
    """Another id each time, and nothing that is passed on."""
    found, other = (trace_of({b"traceparent": header.encode()}) for _ in range(2))

    assert (found.parent_id, found.is_sampled, found.header) == (None, None, None)
    assert found.trace_id not in {ID, other.trace_id}


def test_what_is_passed_on_can_be_read() -> None:
    """Ids with leading zeros keep their length."""
    found = trace_of({b"traceparent": header_of(1, 2)})

    assert (found.trace_id, found.parent_id, found.is_sampled) == ("0" * 31 + "1", "0" * 15 + "2", True)
