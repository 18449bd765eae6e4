"""HTTP as this server wants it, where aiohttp's defaults would mislead a client.

Differences: what is not HTTP is refused in the API's own form; a client that closes its sending side too early (a short
body) is still told what was wrong; bodies stay the bytes that were sent, whatever their Content-Encoding; a server that ends
takes leave of its clients, reads to their end the bodies of requests that it still answers, and waits for these once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Refuse = Callable[[int, str, str], web.Response]
MAX_LINE_BYTES = 16_384
"""Request line, and each header: two keys of 1,024 bytes, percent-encoded, fit several times."""


class HttpServer(web.Server):
    """`refuse(status, code, message)` renders the answer to what is no HTTP request."""

    def __init__(self, handler: Handler, refuse: Refuse, **options: Any) -> None:
        super().__init__(handler, request_factory=self._request, **options)
        self.refuse = refuse
        self._leaving = False
        self._open = 0
        self._nobody = asyncio.Event()
        self._options = options | {
            "auto_decompress": False,
            "max_line_size": MAX_LINE_BYTES,
            "max_field_size": MAX_LINE_BYTES,
        }

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._options)

    def _request(
        self, message: Any, content: StreamReader, connection: RequestHandler, writer: Any, task: Any
    ) -> web.BaseRequest:
        assert isinstance(connection, Connection), "every connection was made by __call__"
        connection.owed = content
        if self._leaving:
            message = message._replace(should_close=True)
        return web.BaseRequest(message, content, connection, writer, task, self._loop)

    def connection_made(self, handler: RequestHandler, transport: Any) -> None:
        super().connection_made(handler, transport)
        self._open += 1
        self._nobody.clear()

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._open -= 1
        if not self._open:
            self._nobody.set()

    async def farewell(self, within_s: float) -> None:
        """Answer what comes on the connections that are open, with `Connection: close`, until none is left or so many
        seconds have passed.

        A request that meets the closing of its connection on the way is lost, and whoever sent it does not know whether it
        was done. So those that are in use are ended by their clients; what is idle after that may be closed.
        """
        self._leaving = True
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s if self._open else 0):
                await self._nobody.wait()


class Connection(RequestHandler):
    """One client's connection."""

    def __init__(self, server: HttpServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._refuse = server.refuse
        self._ended = False
        self.owed: StreamReader | None = None  # the body of the request that is being answered

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """End within `timeout` s, whatever the client does. aiohttp waits as long again for a handler that sends."""
        late = None if timeout is None else self._loop.call_later(timeout, self._break_off)
        try:
            await super().shutdown(timeout)
        finally:
            if late is not None:
                late.cancel()

    def _break_off(self) -> None:
        if self._task_handler is not None:
            self._task_handler.cancel()

    def data_received(self, data: bytes) -> None:
        """Of a request that is being answered the body is read to its end, also when the server is ending: aiohttp would let
        it drop."""
        if self.owed is None or self.owed.is_eof() or not (self._close or self._force_close):
            return super().data_received(data)
        close, force_close = self._close, self._force_close
        self._close = self._force_close = False
        try:
            super().data_received(data)
        finally:
            self._close = self._close or close
            self._force_close = self._force_close or force_close

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client will send no more. True, to go on with the answers that are still owed."""
        contents = [content for _, content in self._messages]
        if self.owed is not None:
            contents.append(self.owed)
        for content in contents:
            if not content.is_eof():
                content.set_exception(ConnectionResetError("the body ended before its time"))
                content.feed_eof()  # so that nobody waits for the rest before the answer
        half_open = self.transport is not None and self.transport.get_extra_info("sslcontext") is None
        self._ended = bool(contents) and half_open  # TLS knows no half-closed connection
        return self._ended

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        finished = await super().finish_response(request, resp, start_time)
        self.owed = None
        if self._ended and not self._messages:
            self._close = True
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Something that is no HTTP/1.1 request, or too large a one."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun already")
        if isinstance(exc, LineTooLong):
            response = self._refuse(
                431,
                "RequestHeaderFieldsTooLarge",
                f"the request line and each header may have {self.max_line_size} bytes; shorten them",
            )
        else:
            told = " ".join((message or str(exc)).split())[:200]
            remedy = (
                "percent-encode its path"
                if "url" in told.lower()
                else "this port speaks HTTP/1.1 and nothing else"
            )
            response = self._refuse(400, "BadRequest", f"not a valid HTTP/1.1 request: {remedy} ({told})")
        response.force_close()
        return response
