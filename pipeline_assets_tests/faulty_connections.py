"""Connections to a service on loopback that a test breaks or slows down, while the service itself goes on."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

PIECE = 65_536


class Proxy:
    """Passes bytes to and from a port on loopback, each piece of an answer later by `delay_seconds`; none at all while it `is_down`.

    refused, delayed: connections that were refused or cut, and pieces that came later.
    """

    def __init__(self, target: int) -> None:
        self.delay_seconds, self.is_down, self.refused, self.delayed = 0.0, False, 0, 0
        self._target, self._open = target, set[asyncio.StreamWriter]()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._pass, "127.0.0.1", 0), self._loop).result(10)
        self._server, self.port = server, int(server.sockets[0].getsockname()[1])

    @contextmanager
    def down(self) -> Iterator[None]:
        """Cuts what is connected, and refuses what comes."""
        self.is_down = True
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)
        try:
            yield
        finally:
            self.is_down = False

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Answers come later."""
        self.delay_seconds = seconds
        try:
            yield
        finally:
            self.delay_seconds = 0.0

    def close(self) -> None:
        """Ends it with all its connections."""
        self.is_down = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=5)

    async def _cut(self) -> None:
        for writer in tuple(self._open):
            writer.transport.abort()
            self.refused += 1

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_down:
            self.refused += 1
            writer.transport.abort()
            return
        its_reader, its_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._open |= {writer, its_writer}
        try:
            await asyncio.gather(self._pump(reader, its_writer, is_answer=False), self._pump(its_reader, writer, is_answer=True))
        finally:
            self._open -= {writer, its_writer}
            its_writer.transport.abort()
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        with suppress(OSError):
            while piece := await reader.read(PIECE):
                if is_answer and self.delay_seconds:
                    self.delayed += 1
                    await asyncio.sleep(self.delay_seconds)
                writer.write(piece)
                await writer.drain()
            writer.close()
