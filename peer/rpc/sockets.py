"""Opening connections: runs the state machine of `hello.py` on a socket, on the loop or in a thread."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from peer.errors import AtollError, ProtocolError, Unavailable
from peer.rpc.hello import Hello, Session, Steps, dial

KEEPALIVE_IDLE_S = 10
KEEPALIVE_INTERVAL_S = 3
KEEPALIVE_COUNT = 3
UNACKED_MS = 15_000  # a machine that vanished: unacknowledged bytes end the connection after this


def tune(sock: socket.socket) -> None:
    """No Nagle delay, and a machine that vanished is noticed within about 20 s."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKED_MS)


def shown(host: str, port: int) -> str:
    """An address as people type it: [::1]:7402 or 127.0.0.1:7402."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class NobodyThere(Unavailable):
    """The machine answered that nothing listens at that address."""


def unreachable(where: str, error: OSError) -> Unavailable:
    """What an I/O error while opening means to a caller: nothing was sent, a retry may help."""
    if isinstance(error, ConnectionRefusedError):
        return NobodyThere(f"cannot reach the peer at {where}: {error.strerror or error}")
    return Unavailable(f"cannot reach the peer at {where}: {error.strerror or error}")


def hung_up(where: str) -> Unavailable:
    return Unavailable(f"{where} closed the connection while it was being opened")


async def run_steps(sock: socket.socket, steps: Steps) -> Session:
    """Drive a handshake on a non-blocking socket. Reads exactly what the steps ask for.

    Raises what the steps raise, OSError, or EOFError if the other side hung up.
    """
    loop = asyncio.get_running_loop()
    try:
        step = next(steps)
        while True:
            if isinstance(step, bytes):
                await loop.sock_sendall(sock, step)
                step = next(steps)
                continue
            parts = b""
            while len(parts) < step:
                part = await loop.sock_recv(sock, step - len(parts))
                if not part:
                    raise EOFError
                parts += part
            step = steps.send(parts)
    except StopIteration as end:
        session: Session = end.value
        return session
    finally:
        steps.close()


def run_steps_blocking(sock: socket.socket, steps: Steps) -> Session:
    """The same in a thread, on a blocking socket with SO_RCVTIMEO and SO_SNDTIMEO set."""
    try:
        step = next(steps)
        while True:
            if isinstance(step, bytes):
                sock.sendall(step)
                step = next(steps)
                continue
            parts = sock.recv(step, socket.MSG_WAITALL)
            if len(parts) < step:
                raise EOFError
            step = steps.send(parts)
    except StopIteration as end:
        session: Session = end.value
        return session
    finally:
        steps.close()


async def connect(
    address: tuple[str, int],
    *,
    key: bytes,
    hello: Callable[[], Hello],
    kind: str,
    wanted: str,
    timeout_s: float,
) -> tuple[socket.socket, Session]:
    """Dial `address` (names are resolved anew) and open a connection of `kind`; the socket is the caller's.

    Raises Refused, ProtocolError or Unavailable; every message names the address.
    """
    where = shown(*address)
    try:
        async with asyncio.timeout(timeout_s):
            sock = await _connect(address, where)
            try:
                tune(sock)
                return sock, await run_steps(sock, dial(key, hello(), kind, wanted, where))
            except BaseException:
                sock.close()
                raise
    except AtollError:
        raise
    except TimeoutError:
        raise Unavailable(f"the peer at {where} did not answer within {timeout_s:g} s") from None
    except EOFError:
        raise hung_up(where) from None
    except OSError as e:
        raise unreachable(where, e) from None


async def _connect(address: tuple[str, int], where: str) -> socket.socket:
    """A connected non-blocking socket to the first of the name's addresses that answers."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not a host name"
        raise Unavailable(f"cannot resolve the peer address {where}: {reason}") from None
    last: OSError | None = None
    for family, _, _, _, target in found:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, target)
            return sock
        except OSError as e:
            sock.close()
            last = e
        except BaseException:
            sock.close()
            raise
    raise last or ProtocolError(f"the peer address {where} resolves to nothing")
