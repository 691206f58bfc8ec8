"""REST APIs that give too much, too slowly or without end: each is refused in time, with bounded memory, by the name of the limit."""

import gzip
import json
import socket
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Event, Thread
from time import monotonic

import pytest

from pipeline_assets.core.errors import SourceRefused, SourceUnavailable
from pipeline_assets.core.setting_values import RestService
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.rest import open_endpoint
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.sources.originals import json_bytes
from pipeline_assets.spec.rest import NoLogin, NumberedPages
from pipeline_assets.spec.sources import RestEndpoint
from pipeline_assets_tests.connector_configs import settings_with
from pipeline_assets_tests.readings import FIRST, READINGS, SERVICE, Answer, Api, page_of, reading, serving

SETTINGS = settings_with("shop")
ENDPOINT = RestEndpoint(service=SERVICE, path="/v1/readings", records="rows", login=NoLogin(), query=(), page_seconds=1.5)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
PAGE = page_of([reading()])
MIB = 1 << 20


def read(settings: Settings, origin: RestEndpoint = ENDPOINT) -> int:
    """How many records an endpoint has."""
    with open_endpoint(settings, READINGS, origin) as reader:
        return sum(len(page.records) for page in reader.pages(None))


@contextmanager
def sending(parts: Callable[[], Iterator[bytes]]) -> Iterator[Settings]:
    """Settings of a server that answers each request with these bytes, one part every 50 ms."""
    stopped = Event()

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(65_536)
            for part in parts():
                connection.sendall(part)
                if stopped.wait(0.05):
                    return

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=serve, args=(listener,), daemon=True).start()
        service = RestService(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield SETTINGS.model_copy(update={"services": {SERVICE: service}})
        stopped.set()


def dripped_headers() -> Iterator[bytes]:
    """Headers without end."""
    yield HEAD
    number = 0
    while True:
        number += 1
        yield b"X"


def dripped_body() -> Iterator[bytes]:
    """A body without end."""
    yield HEAD + b"Content-Length: 1000000\r\n\r\n" + PAGE[:10]
    while True:
        yield b" "


def dripped_gzip() -> Iterator[bytes]:
    """A packed body without end, of which nothing can be unpacked."""
    yield HEAD + b"Content-Encoding: gzip\r\nContent-Length: 1000000\r\n\r\n" + gzip.compress(PAGE)[:10]
    while True:
        yield b"\x00\x00\x00\xff\xff"


@pytest.mark.parametrize("parts", [dripped_headers, dripped_body, dripped_gzip])
def test_a_server_that_drips_is_given_up_in_time(parts: Callable[[], Iterator[bytes]]) -> None:
    """Headers and body together have a deadline, however the bytes come; the error names the limit."""
    began = monotonic()
    with sending(parts) as settings, pytest.raises(SourceUnavailable, match=r"longer than 1\.5 s, the `page_seconds` of its declaration"):
        read(settings)

    assert monotonic() - began < 5


def packed_zeros(mebibytes: int) -> bytes:
    """A page of blanks that is a thousandth as large when it is packed."""
    packer = zlib.compressobj(9, wbits=31)
    blanks = b" " * MIB
    return packer.compress(PAGE) + b"".join(packer.compress(blanks) for _ in range(mebibytes)) + packer.flush()


def test_a_bomb_is_not_unpacked() -> None:
    """A quarter of a megabyte that would be a quarter of a gibibyte is refused at the limit, in a few times its memory."""
    bomb, origin = packed_zeros(256), replace(ENDPOINT, max_page_bytes=8 * MIB, page_seconds=30.0)

    def answer(_: Api, __: dict[str, str]) -> Answer:
        return 200, {"Content-Encoding": "gzip"}, bomb

    with serving(SETTINGS, answer) as (_, settings):
        tracemalloc.start()
        try:
            with pytest.raises(SourceRefused, match=r"more than 8,388,608 bytes unpacked, the `max_page_bytes` of its declaration"):
                read(settings, origin)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert len(bomb) < MIB
    assert peak < 6 * origin.max_page_bytes


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(PAGE)),
        ("gzip", gzip.compress(PAGE[:7]) + gzip.compress(PAGE[7:])),
        ("deflate", zlib.compress(PAGE)),
        ("deflate", zlib.compress(PAGE)[2:-4]),
        ("identity", PAGE),
    ],
    ids=["gzip", "two members", "zlib", "raw", "plain"],
)
def test_answers_may_be_packed_as_servers_do(coding: str, body: bytes) -> None:
    """By gzip, in one member or several, by deflate with or without its header, or not at all."""
    with serving(SETTINGS, lambda _, __: (200, {"Content-Encoding": coding}, body)) as (api, settings):
        found = read(settings)

    assert found == 1
    assert api.headers[0]["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(("coding", "problem"), [("br", "by 'br', which it was not asked for"), ("gzip", "packed its answer wrongly")])
def test_an_answer_that_is_packed_oddly_is_refused(coding: str, problem: str) -> None:
    """By a coding that was not asked for, or not as it says."""
    served = serving(SETTINGS, lambda _, __: (200, {"Content-Encoding": coding}, PAGE))
    with served as (_, settings), pytest.raises(SourceRefused, match=problem):
        read(settings)


def test_pages_without_end_come_to_one() -> None:
    """Each page has a record that none had before: the number of pages ends them."""
    origin = replace(ENDPOINT, pages=NumberedPages(parameter="page"), max_pages=50, page_seconds=30.0)

    def answer(api: Api, _: dict[str, str]) -> Answer:
        return 200, {}, page_of([reading(sensor=str(len(api.asked)))])

    with serving(SETTINGS, answer) as (api, settings), pytest.raises(SourceRefused, match="more than 50 pages, the `max_pages`"):
        read(settings, origin)

    assert len(api.asked) == 50
    assert RestEndpoint(service=SERVICE, path="/", records="").max_pages == 10_000


DEEP = "[" * 10_000 + "]" * 10_000
ROW = json_bytes(reading()).decode()


def test_an_answer_that_is_nested_too_deeply_is_refused() -> None:
    """By the name of the limit, where it is beside the records."""
    served = serving(SETTINGS, lambda _, __: (200, {}, f'{{"extra": {DEEP}, "rows": [{ROW}]}}'.encode()))
    with served as (_, settings), pytest.raises(SourceRefused, match="nested deeper than 1,000 levels, the limit of JSON here"):
        read(settings)


def test_a_record_that_is_nested_too_deeply_is_broken() -> None:
    """The others of its page are read."""
    served = serving(SETTINGS, lambda _, __: (200, {}, f'{{"rows": [{{"extra": {DEEP}}}, {ROW}]}}'.encode()))
    with served as (_, settings), open_endpoint(settings, READINGS, ENDPOINT) as reader:
        (checked,) = list(reader(FIRST))

    assert [(row.position, row.fault) for row in checked.broken] == [(0, "nested too deeply")]
    assert checked.good.num_rows == 1


@pytest.mark.parametrize(("depth", "faults"), [(99, []), (100, ["nested too deeply"])])
def test_a_record_may_be_nested_a_hundred_levels(depth: int, faults: list[str]) -> None:
    """Brackets in texts do not count, however many they are."""
    row = json.loads(json_bytes(reading()))
    extra = json.dumps({**row, "text": "[{" * 5_000 + '"'}).removesuffix("}") + f', "extra": {"[" * depth}{"]" * depth}}}'

    checked = check_json_rows(READINGS, [extra.encode()], day=FIRST)

    assert [row.fault for row in checked.broken] == faults
