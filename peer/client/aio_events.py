"""One peer's events over aiohttp: what following.py asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import aiohttp
from yarl import URL

from peer.client.aio_download import BROKEN, lower
from peer.client.following import FIRST_S, SILENCE_S, Event, Parser, Silent, in_short
from peer.client.trust import refusal
from peer.client.wire import MAX_ERROR_BYTES, Request, error_of


async def stream(
    session: aiohttp.ClientSession, url: str, request: Request, headers: Mapping[str, str]
) -> AsyncIterator[Event]:
    """Its events until it ends or falls silent. Raises Silent, or what the peer answered (Denied)."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=FIRST_S, sock_read=SILENCE_S)
    target = URL(url + request.path, encoded=True)
    try:
        async with session.get(target, headers=headers, timeout=timeout, allow_redirects=False) as response:
            if response.status != 200:
                body = await _beginning(response.content)
                raise error_of(response.status, lower(response.headers), body, request.what)
            parser = Parser()
            async for piece in response.content.iter_any():
                for event in parser.feed(piece):
                    yield event
    except aiohttp.ServerTimeoutError:
        raise Silent(f"it said nothing for {SILENCE_S:g} s") from None
    except BROKEN as problem:
        raise Silent(in_short(refusal(problem, url, None) or problem)) from problem


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    """A body as far as it can be an error of ours."""
    body = b""
    async for piece in content.iter_any():
        body += piece
        if len(body) >= MAX_ERROR_BYTES:
            break
    return body
