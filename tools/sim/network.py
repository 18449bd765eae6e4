"""The simulated network between peers: seeded delay, loss, duplication, reordering, cuts and resets.

It offers what `peer.rpc.Peers.call` offers: a message to a member and exactly one answer, a reply list
or Unavailable. Every message is packed and unpacked as on the wire, so tuples arrive as lists and what
msgpack cannot carry fails here too. It is harsher than the TCP connections it stands for: messages
overtake each other, come twice, and may reach a process that has restarted since.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgpack

from peer.errors import AtollError, Unavailable
from peer.rpc.frames import MAX_MESSAGE_BYTES
from tools.sim.env import SimEnv, Timer
from tools.sim.loop import VirtualLoop
from tools.sim.story import Story

Reply = Callable[[Any], None]
Handler = Callable[[str, list[Any], Reply], None]
Done = Callable[[list[Any] | AtollError], None]


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, use_list=True, raw=False, strict_map_key=False)


def _pack(message: Any) -> bytes:
    """As it travels; what no peer would take is a bug of whoever sends it."""
    data = bytes(msgpack.packb(message))
    assert len(data) <= MAX_MESSAGE_BYTES, f"a message of {len(data)} bytes"
    return data


@dataclass
class Weather:
    """How bad it is now. Probabilities are per message and direction, times in seconds."""

    delay_s: float = 0.0005
    loss: float = 0.0
    duplicate: float = 0.0
    straggle: float = 0.0  # this message takes up to straggle_s: others overtake it
    straggle_s: float = 2.0


class _Call:
    """One call in flight, seen from its caller."""

    __slots__ = ("done", "env", "pair", "timer")

    def __init__(self, pair: tuple[str, str], env: SimEnv, done: Done) -> None:
        self.pair = pair
        self.env = env
        self.done = done
        self.timer: Timer | None = None


class SimNetwork:
    """Knows who runs where, who cannot reach whom, and carries every message."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, story: Story) -> None:
        self._loop = loop
        self.rng = rng
        self.story = story
        self.weather = Weather()
        self.noticed = 0.8  # share of the calls to a dead peer that break at once; the rest wait
        self.nodes: dict[str, tuple[SimEnv, Handler]] = {}
        self.cut: set[tuple[str, str]] = set()  # directed: (from, to)
        self.doubted: set[tuple[str, str]] = set()  # (who, of whom): believes it dead, wrongly
        self.given_up: set[tuple[str, str]] = set()  # likewise, with reason (`belief`)
        # Directed schedules: (from, to, kind of request) -> None, or extra delay in seconds, < 0 to lose it.
        self.rule: Callable[[str, str, Any], float | None] | None = None
        self._calls: dict[_Call, None] = {}

    def link(self, member: str, env: SimEnv) -> SimLink:
        """What the process of `member` in `env` calls others with."""
        return SimLink(self, member, env)

    def attach(self, member: str, env: SimEnv, handler: Handler) -> None:
        """`member` runs in `env` from now on and answers with `handler`."""
        self.nodes[member] = (env, handler)

    def call(
        self, sender: str, env: SimEnv, target: str, message: Any, deadline_s: float, done: Done
    ) -> None:
        """As `peer.rpc.Peers.call`; `done` never runs before this returns."""
        if env.dead:
            return
        call = _Call((sender, target), env, done)
        call.timer = env.call_later(deadline_s, partial(self._end, call, Unavailable("no answer in time")))
        self._calls[call] = None
        if target not in self.nodes and self.rng.random() < self.noticed:
            self._later(self.weather.delay_s, self._end, call, Unavailable("the connection was refused"))
        else:
            self._carry(sender, target, _pack(message), partial(self._arrive, call, message[0]))

    def reset(self, one: str, other: str) -> int:
        """Break the connection: calls between the two fail at once, whatever became of them there."""
        broken = [call for call in self._calls if call.pair in ((one, other), (other, one))]
        for call in broken:
            self._later(0.0, self._end, call, Unavailable("the connection was reset"))
        return len(broken)

    def died(self, member: str) -> None:
        """Its own calls are gone with it; calls to it break, and most of them notice at once."""
        self.nodes.pop(member, None)
        for call in list(self._calls):
            if call.pair[0] == member:
                self._calls.pop(call, None)
            elif call.pair[1] == member and self.rng.random() < self.noticed:
                self._later(0.0, self._end, call, Unavailable("the peer closed the connection"))

    def heal(self) -> None:
        """Fair weather, every link whole, nobody doubted."""
        self.weather = Weather()
        self.rule = None
        self.cut.clear()
        self.doubted.clear()

    # The way of one message

    def _carry(self, sender: str, target: str, data: bytes, arrive: Callable[[bytes], None]) -> None:
        """Send `data` on its way: `arrive` is called never, once or twice, always later."""
        rng, weather, story = self.rng, self.weather, self.story
        if sender == target:
            self._later(0.0, arrive, data)
            return
        if weather.loss and rng.random() < weather.loss:
            story.fault("loss", sender, "", quiet=True)
            return
        copies = 1
        if weather.duplicate and rng.random() < weather.duplicate:
            story.fault("duplication", sender, "", quiet=True)
            copies = 2
        for _ in range(copies):
            delay_s = weather.delay_s * (0.5 + rng.random())
            if weather.straggle and rng.random() < weather.straggle:
                story.fault("reordering", sender, "", quiet=True)
                delay_s += weather.straggle_s * rng.random() ** 3
            self._later(delay_s, self._cross, sender, target, data, arrive)

    def _cross(self, sender: str, target: str, data: bytes, arrive: Callable[[bytes], None]) -> None:
        """The end of the wire: a cut swallows what reaches it, also what was sent before."""
        if (sender, target) in self.cut:
            self.story.fault("message cut off", sender, "", quiet=True)
        else:
            arrive(data)

    def _arrive(self, call: _Call, what: Any, data: bytes) -> None:
        delay_s = self.rule(*call.pair, what) if self.rule is not None else None
        if delay_s is None:
            self._deliver(call, data)
        elif delay_s >= 0:
            self._later(delay_s, self._deliver, call, data)

    def _deliver(self, call: _Call, data: bytes) -> None:
        """To whichever process of the target runs now."""
        node = self.nodes.get(call.pair[1])
        if node is not None:
            env, handler = node
            self.story.bytes(data)
            env.post(lambda: self._handle(call, env, handler, data))

    def _handle(self, call: _Call, env: SimEnv, handler: Handler, data: bytes) -> None:
        sender, target = call.pair
        answered = False

        def reply(answer: tuple[Any, ...] | AtollError) -> None:
            nonlocal answered
            assert not answered, f"a second reply to {_unpack(data)!r}"
            answered = True
            if isinstance(answer, AtollError):
                self._later(self.weather.delay_s, self._end, call, answer)
            elif not env.dead:
                self._carry(target, sender, _pack(answer), lambda packed: self._answered(call, packed))

        handler(sender, _unpack(data), reply)

    def _answered(self, call: _Call, data: bytes) -> None:
        self.story.bytes(data)
        self._end(call, _unpack(data))

    def _end(self, call: _Call, result: list[Any] | AtollError) -> None:
        call.env.post(lambda: self._finish(call, result))

    def _finish(self, call: _Call, result: list[Any] | AtollError) -> None:
        """In the caller's process: the first result counts."""
        if self._calls.pop(call, call) is None:
            assert call.timer is not None
            call.timer.cancel()
            call.done(result)

    def _later(self, delay_s: float, callback: Callable[..., None], *args: Any) -> None:
        self._loop.call_later(delay_s, callback, *args)


class SimLink:
    """One boot's end of the network: the Network of peer/replication."""

    def __init__(self, network: SimNetwork, member: str, env: SimEnv) -> None:
        self._network, self._member, self._env = network, member, env

    def call(self, member_id: str, message: tuple[Any, ...], deadline_s: float, done: Done) -> None:
        self._network.call(self._member, self._env, member_id, message, deadline_s, done)

    def is_alive(self, member_id: str) -> bool:
        pair = self._member, member_id
        return pair not in self._network.doubted and pair not in self._network.given_up
