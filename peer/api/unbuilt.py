"""The S3 port before the S3 surface is built: it says so, in S3's own form, to everything."""

from __future__ import annotations

from aiohttp import web

from peer.errors import StartupError
from peer.tls.certificates import Certificates

from .site import listen, plain_answer

_ANSWER = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NotImplemented</Code><Message>The S3 API is not implemented'
    b" in this version of Atoll; use the HTTP API on the next port.</Message></Error>"
)
_PLAIN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InvalidRequest</Code><Message>This port speaks TLS: write'
    b" https:// in the address.</Message></Error>"
)

IDLE_S = 10.0
"""A connection that has not sent a request by then is closed; aiohttp itself would keep it for an hour."""


class UnbuiltS3:
    """Answers 501 NotImplemented on the S3 port."""

    def __init__(self) -> None:
        self._runner: web.ServerRunner | None = None

    async def start(self, host: str, port: int, certificates: Certificates | None = None) -> None:
        """Listen, with TLS if there are certificates. Raises StartupError if the port is taken."""
        self._runner = web.ServerRunner(web.Server(self._refuse, access_log=None, keepalive_timeout=IDLE_S))
        await self._runner.setup()
        try:
            await listen(
                self._runner, host, port, certificates, lambda: plain_answer("application/xml", _PLAIN)
            )
        except OSError as error:
            raise StartupError(
                f"the S3 port {host}:{port} cannot be used ({error.strerror}); is another peer running? choose --s3-port"
            ) from error

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _refuse(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.Response(status=501, body=_ANSWER, headers={"Content-Type": "application/xml"})
        response.force_close()
        return response
