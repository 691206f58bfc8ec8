"""Answers over HTTP within limits: a deadline over the whole of a request, headers and body, and a number of bytes, unpacked ones too.

httpx has a limit to each single wait alone: a server that sends a byte now and then holds its client for as long as it likes. And it
unpacks whatever a server packs, a thousand times as large, before anybody can look at it.
"""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import local
from time import monotonic
from typing import TYPE_CHECKING, Any

import httpcore

from pipeline_assets.core.waits import check_stop

if TYPE_CHECKING:
    import ssl

    import httpx

# What `unpacked` reads, and nothing else is to be sent.
ACCEPTED = {"Accept-Encoding": "gzip, deflate"}
STEP_SECONDS = 0.5
Options = Iterable[httpcore.SOCKET_OPTION] | None
PIECE_BYTES = 1 << 20
GZIP_OR_ZLIB, RAW = 47, -15
_OF_THREAD = local()


class TooLarge(Exception):
    """An answer has more than `most` bytes, unpacked."""

    def __init__(self, most: int) -> None:
        self.most = most
        super().__init__(f"its answer has more than {most:,} bytes unpacked")


class OddlyPacked(Exception):
    """An answer is packed in a way that was not asked for, or broken."""


@contextmanager
def until(deadline: float, limit: str) -> Iterator[None]:
    """Requests of this thread, by clients that `bind` has seen, end at a time of the monotonic clock, by httpx.ReadTimeout with `limit`."""
    before = getattr(_OF_THREAD, "within", None)
    _OF_THREAD.within = min(before or (deadline, limit), (deadline, limit))
    try:
        yield
    finally:
        _OF_THREAD.within = before


def bind(client: "httpx.Client") -> None:
    """Has all connections of a client keep the deadline of `until`, and end where their thread stops (`waits.ending_at`).

    By attributes that are private to httpx and httpcore, which have no other place for it (encode/httpx#1450); their tests would show it.
    """
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001 - see above
        pool = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Backend(pool._network_backend)  # noqa: SLF001 - see above


def unpacked(answer: "httpx.Response", most: int) -> bytes:
    """The body of a streamed answer, unpacked; raises TooLarge once there are more than `most` bytes, OddlyPacked, and httpx's errors."""
    coding = answer.headers.get("content-encoding", "identity").strip().lower()
    if coding not in {"identity", "", "gzip", "x-gzip", "deflate"}:
        raise OddlyPacked(f"it packs its answer by '{coding}', which it was not asked for")
    content = bytearray()
    for part in answer.iter_raw() if coding in {"identity", ""} else _inflated(answer.iter_raw()):
        content += part
        if len(content) > most:
            raise TooLarge(most)
    return bytes(content)


def whole(answer: "httpx.Response", content: bytes) -> "httpx.Response":
    """A streamed answer with all of its content; what says how it was packed is gone."""
    import httpx

    packed = {"content-encoding", "content-length", "transfer-encoding"}
    headers = [(name, value) for name, value in answer.headers.multi_items() if name not in packed]
    return httpx.Response(answer.status_code, headers=headers, content=content, request=answer.request)


def fetched(client: "httpx.Client", method: str, url: str, most: int, **more: Any) -> "httpx.Response":
    """An answer with at most so many bytes, whatever its status; errors as those of `unpacked`."""
    with client.stream(method, url, **more) as answer:
        return whole(answer, unpacked(answer, most))


def _inflated(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The unpacked bytes in pieces of at most PIECE_BYTES, however well they were packed."""
    reader = zlib.decompressobj(GZIP_OR_ZLIB)
    is_first = True
    try:
        for part in parts:
            rest = part
            while rest:
                if is_first and not _is_headed(rest):
                    reader = zlib.decompressobj(RAW)
                is_first = False
                yield reader.decompress(rest, PIECE_BYTES)
                rest = reader.unconsumed_tail or reader.unused_data
                if reader.eof:
                    reader = zlib.decompressobj(GZIP_OR_ZLIB)
        yield reader.flush()
    except zlib.error as error:
        raise OddlyPacked(f"it packed its answer wrongly ({error})") from error


def _is_headed(data: bytes) -> bool:
    """Whether packed bytes begin as gzip's or zlib's do; some servers send `deflate` without."""
    return data[:1] in {b"\x1f", b"\x78"}


class _Backend(httpcore.NetworkBackend):
    """Connections whose every wait is within the deadline of its thread."""

    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None, socket_options: Options = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_tcp(host, port, _left(timeout), local_address, socket_options))

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Options = None) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_unix_socket(path, _left(timeout), socket_options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        until = monotonic() + timeout if timeout is not None else float("inf")
        while True:
            step = min(STEP_SECONDS, until - monotonic())
            if step <= 0:
                raise httpcore.ReadTimeout(f"nothing came for {timeout:g} s")
            within = _left(step)
            try:
                return self._inner.read(max_bytes, within)
            except httpcore.ReadTimeout:
                check_stop()

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: "ssl.SSLContext", server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(timeout: float | None) -> float | None:
    """How long a wait may take: as long as was asked for, and not beyond the deadline of this thread."""
    within: tuple[float, str] | None = getattr(_OF_THREAD, "within", None)
    if within is None:
        return timeout
    deadline, limit = within
    left = deadline - monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout(limit)
    return left if timeout is None else min(timeout, left)
