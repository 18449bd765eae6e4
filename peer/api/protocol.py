"""HTTP as this server wants it, where aiohttp's defaults would mislead a client.

Three differences: what is not HTTP is refused in the API's own form; a client that closes its sending side too early
(a short body) is still told what was wrong; and bodies stay the bytes that were sent, whatever their Content-Encoding.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
        return web.BaseRequest(message, content, connection, writer, task, self._loop)


class Connection(RequestHandler):
    """One client's connection."""

    def __init__(self, server: HttpServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._refuse = server.refuse
        self._ended = False
        self.owed: StreamReader | None = None  # the body of the request that is being answered

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client will send no more. True, to go on with the answers that are still owed."""
        contents = [content for _, content in self._messages]
        if self.owed is not None:
            contents.append(self.owed)
        for content in contents:
            if not content.is_eof():
                content.set_exception(ConnectionResetError("the body ended before its time"))
                content.feed_eof()  # so that nobody waits for the rest before the answer
        self._ended = bool(contents)
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
            remedy = "percent-encode its path" if "url" in told.lower() else "this port speaks plain HTTP"
            response = self._refuse(400, "BadRequest", f"not a valid HTTP/1.1 request: {remedy} ({told})")
        response.force_close()
        return response
