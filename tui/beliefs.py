"""Who believes whom to be alive: the answer of `GET /v1/cluster/views` as a matrix, and what differs in it, in words. Pure.

B1  Opinions are compared only where somebody told one: a peer that does not answer believes nothing that is known.
B2  It is said that all agree only if no two opinions of one peer differ. A peer's opinion of itself does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tui.model import LOOKS, Json, _items, _mapping, _number

STATES = ("alive", "suspect", "dead", "left", "unknown")
UP = frozenset({"alive", "suspect"})
SENTENCES_MOST = 4
NAMES_MOST = 4


@dataclass(frozen=True, slots=True)
class Observer:
    """One peer's view. `believes` holds only those it does not hold for alive; None: it is not known."""

    id: str
    name: str
    answers: bool
    believes: Mapping[str, str] | None
    heard_s: Mapping[str, float]

    def holds(self, member: str) -> str | None:
        """The state it believes a member to be in; None for itself, or if it is not known."""
        if self.believes is None or member == self.id:
            return None
        return self.believes.get(member, "alive")


@dataclass(frozen=True, slots=True)
class Beliefs:
    """`members` (id, name) in the order of the table: both the observers and the observed."""

    members: tuple[tuple[str, str], ...]
    observers: tuple[Observer, ...]

    @property
    def telling(self) -> list[Observer]:
        return [one for one in self.observers if one.believes is not None]

    def opinions(self, member: str) -> dict[str, list[Observer]]:
        """State -> who holds the member for it."""
        found: dict[str, list[Observer]] = {}
        for one in self.telling:
            state = one.holds(member)
            if state is not None:
                found.setdefault(state, []).append(one)
        return found


def beliefs_of(views: Json) -> Beliefs:
    """The answer as data; unknown keys are ignored, states that are none are unknown ones."""
    members = tuple(
        (str(one.get("id") or ""), str(one.get("name") or one.get("id") or "?"))
        for one in map(_mapping, _items(views.get("members")))
    )
    told = {str(one.get("id") or ""): one for one in map(_mapping, _items(views.get("views")))}
    return Beliefs(members, tuple(_observer(member, name, told.get(member)) for member, name in members))


def _observer(member: str, name: str, told: Json | None) -> Observer:
    told = told or {}
    answers, believes = told.get("answers") is True, told.get("believes")
    if not answers or not isinstance(believes, Mapping):
        return Observer(member, name, answers, None, {})
    heard = {str(other): _number(seconds) for other, seconds in _mapping(told.get("heard_s")).items()}
    return Observer(
        member,
        name,
        answers,
        {
            str(other): state if isinstance(state, str) and state in LOOKS else "unknown"
            for other, state in believes.items()
        },
        {other: seconds for other, seconds in heard.items() if seconds is not None},
    )


@dataclass(frozen=True, slots=True)
class Differing:
    """What most hold each member for, and who holds it for something else."""

    usual: Mapping[str, str]
    odd: frozenset[tuple[str, str]]
    """(observer, observed)"""
    disputed: frozenset[str]
    """Members of whom opinions differ."""


def differing(beliefs: Beliefs) -> Differing:
    """Compare all opinions. Where as many hold one thing as another, the better state is taken for usual."""
    usual: dict[str, str] = {}
    odd: set[tuple[str, str]] = set()
    disputed: set[str] = set()
    for member, _ in beliefs.members:
        opinions = beliefs.opinions(member)
        if not opinions:
            continue
        usual[member] = max(opinions, key=lambda state: (len(opinions[state]), -_place(state)))
        if len(opinions) > 1:
            disputed.add(member)
            odd.update(
                (one.id, member) for state, ones in opinions.items() if state != usual[member] for one in ones
            )
    return Differing(usual, frozenset(odd), frozenset(disputed))


def _place(state: str) -> int:
    return STATES.index(state) if state in STATES else len(STATES)


@dataclass(frozen=True, slots=True)
class Summary:
    """`agree` None: nobody told anything. `sentences`: what there is to say, the most important first."""

    agree: bool | None
    sentences: tuple[str, ...]


def summary(beliefs: Beliefs, found: Differing) -> Summary:
    """In plain words: whether all agree; else who holds whom for what, and what kind of fault looks like that."""
    telling = beliefs.telling
    if not beliefs.members or not telling:
        return Summary(None, ("no peer has told yet what it believes of the others",))
    sentences = [] if not found.disputed else _disputes(beliefs, found)
    if not sentences:
        sentences = [_agreement(beliefs, found)]
    silent = [one for one in beliefs.observers if one.believes is None]
    missing = [one.name for one in silent if found.usual.get(one.id) in UP and not one.answers]
    if missing:
        verb = "does" if len(missing) == 1 else "do"
        sentences.append(f"{names(missing)} {verb} not answer, though not held for gone yet")
    ghosts = [one.name for one in telling if found.usual.get(one.id) in ("dead", "left")]
    if ghosts:
        sentences.append(f"{names(ghosts)} answered just now, though held for gone: it may be coming back")
    older = [one.name for one in silent if one.answers]
    if older:
        verb = "does" if len(older) == 1 else "do"
        sentences.append(f"{names(older)} {verb} not tell of views (an older version?)")
    if 2 * len(telling) <= len(beliefs.members) and len(beliefs.members) > 2:
        sentences.append(
            f"only {len(telling)} of {len(beliefs.members)} tell: it may be they that are cut off from the rest"
        )
    return Summary(not found.disputed, tuple(sentences))


def _agreement(beliefs: Beliefs, found: Differing) -> str:
    telling, members = len(beliefs.telling), len(beliefs.members)
    states = Counter(found.usual.get(member, "alive") for member, _ in beliefs.members)
    # Somebody who tells is alive, even if there is nobody else to say so.
    parts = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    if telling == 1:
        return f"only {beliefs.telling[0].name} tells: {parts}"
    who = f"all {members} peers agree" if telling == members else f"all {telling} peers that tell agree"
    gone = [name for member, name in beliefs.members if found.usual.get(member, "alive") != "alive"]
    return f"{who}: {parts}" + (f" ({names(gone)})" if gone else "")


# --- disagreement in words


def _disputes(beliefs: Beliefs, found: Differing) -> list[str]:
    """Whoever is cut off explains many differences at once, so it is told first, and they are told no more."""
    sentences: list[str] = []
    explained: set[str] = set()
    for one in _cut_off(beliefs, found):
        lost = [member for observer, member in found.odd if observer == one.id]
        sentences.append(
            f"{one.name} holds {len(lost)} of {len(beliefs.members) - 1} others for gone that most hold for alive: "
            f"it seems to be cut off"
        )
        explained.add(one.id)
    by_id = {one.id: one for one in beliefs.observers}
    told: set[frozenset[str]] = set()
    for member, name in beliefs.members:
        if member not in found.disputed:
            continue
        opinions = {
            state: [one for one in ones if one.id not in explained]
            for state, ones in beliefs.opinions(member).items()
        }
        opinions = {state: ones for state, ones in opinions.items() if ones}
        if len(opinions) < 2 and (len(opinions) == 0 or next(iter(opinions)) == found.usual[member]):
            continue  # only those that are cut off hold something else
        sentence = _dispute(by_id[member], name, opinions, beliefs, told)
        if sentence:
            sentences.append(sentence)
    if len(sentences) > SENTENCES_MOST:
        rest = len(sentences) - SENTENCES_MOST + 1
        sentences = [*sentences[: SENTENCES_MOST - 1], f"and {rest} more differences: d shows them alone"]
    return sentences or ["views differ"]


def _cut_off(beliefs: Beliefs, found: Differing) -> list[Observer]:
    """Observers that hold two or more, and most of the others, for gone whom most hold for alive."""
    telling = beliefs.telling
    cut = []
    for one in telling:
        lost = sum(
            (one.id, member) in found.odd
            and found.usual.get(member) == "alive"
            and one.holds(member) not in UP
            for member, _ in beliefs.members
        )
        if lost >= 2 and 2 * lost > len(beliefs.members) - 1:
            cut.append(one)
    return cut if 2 * len(cut) < len(telling) else []


def _dispute(
    subject: Observer,
    name: str,
    opinions: Mapping[str, Sequence[Observer]],
    beliefs: Beliefs,
    told: set[frozenset[str]],
) -> str:
    """One member of whom opinions differ; "" if that was said already, of the pair from its other end."""
    parts = sorted(opinions.items(), key=lambda item: (len(item[1]), -_place(item[0])))
    state, few = parts[0]
    if len(few) == 1 and state not in UP and subject.believes is not None:
        back = subject.holds(few[0].id)
        pair = frozenset({subject.id, few[0].id})
        if back is not None and back not in UP:
            if pair in told:
                return ""
            told.add(pair)
            return f"{few[0].name} and {name} hold each other for gone, the others do not: the link between them?"
        return f"{_clauses(name, parts)}; {name} holds {few[0].name} for {back}: a one-way network fault?"
    return _clauses(name, parts) + _guess(state, parts, name)


def _clauses(name: str, parts: Sequence[tuple[str, Sequence[Observer]]]) -> str:
    """ "peer-3 holds peer-1 for dead, the others for alive"."""
    first_state, first = parts[0]
    verb = "holds" if len(first) == 1 else "hold"
    words = [f"{names([one.name for one in first])} {verb} {name} for {first_state}"]
    for number, (state, ones) in enumerate(parts[1:], 1):
        last = number == len(parts) - 1
        who = names([one.name for one in ones]) if not last or len(ones) == 1 else f"the other {len(ones)}"
        words.append(f"{who} for {state}")
    return ", ".join(words)


def _guess(state: str, parts: Sequence[tuple[str, Sequence[Observer]]], name: str) -> str:
    """What looks like this, after a colon; "" where it may be many things."""
    states = {found for found, _ in parts}
    if states <= {"alive", "suspect"}:
        return ": a suspicion, to be confirmed or refuted within seconds"
    if "suspect" in states and "alive" not in states:
        return ": the news of its death is on its way"
    if state == "alive" and len(parts[0][1]) == 1:
        return f": only it still hears of {name}, or the news has not reached it"
    return ""


def names(some: Iterable[str]) -> str:
    """ "a", "a and b", "a, b, c and 5 more"."""
    some = list(some)
    if len(some) > NAMES_MOST:
        return f"{', '.join(some[: NAMES_MOST - 1])} and {len(some) - NAMES_MOST + 1} more"
    return " and ".join(filter(None, (", ".join(some[:-1]), some[-1]))) if some else "nobody"
