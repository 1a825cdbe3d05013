"""Which of several servers a session goes to: who is next, and when one that failed or is full is asked again.

Servers are names. What is known of each is told here by whoever talks to them; nothing is asked and no clock is read.

Three ways to spread sessions, each an order of the servers that are ready:

- by load: the smallest share of `max_sessions` that is open; where no server says how many are open, the better of two
  random ones by latency times the sessions that this client has there (Mitzenmacher, "The power of two choices in
  randomized load balancing", IEEE TPDS 12 (10), 2001);
- by hash: rendezvous hashing of a key (Thaler and Ravishankar, "Using name-based mappings to increase hit rates",
  IEEE/ACM Trans. Networking 6 (1), 1998): equal keys meet at one server, and a server that leaves moves only its own;
- in the order given.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Collection
from dataclasses import dataclass

SECOND = 1_000_000_000


class Balance(enum.Enum):
    """How sessions are spread over servers."""

    LOAD = "load"
    """To the server with the most room."""
    HASH = "hash"
    """Equal beginnings of prompts to the same server, whose cache has them."""
    FIRST = "first"
    """To the first in the order given; the others are for when it fails."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A server, and from when on (ns) it is worth while to dial it: not after now, if one is ready."""

    server: str
    at: int


@dataclass(slots=True)
class _Server:
    fits: bool | None = None
    """None: it has not said yet which model it holds."""
    latency: int | None = None
    """ns of the shortest round trip."""
    open_sessions: int = 0
    """As it said last; 0: it did not say, or none."""
    max_sessions: int = 1
    held: int = 0
    """Sessions of this client that are there now."""
    held_then: int = 0
    """The same, when it said `open_sessions`."""
    failures: int = 0
    """In a row, without any progress between."""
    due: int = 0
    """ns; before that it is dialled only if every other is no better."""

    @property
    def share(self) -> float:
        """Of its sessions that are open, as far as can be told."""
        return max(0, self.open_sessions + self.held - self.held_then) / max(1, self.max_sessions)


class Servers:
    """What is known of the servers of one client. Those that nothing was heard of are not chosen."""

    def __init__(
        self,
        balance: Balance = Balance.LOAD,
        *,
        first_delay: float = 0.05,
        longest_delay: float = 1.0,
        full_for: float = 1.0,
    ) -> None:
        """Seconds: backoff of a server that fails; how long one that is full and does not say for how long is left."""
        self._balance = balance
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._full_for = full_for
        self._servers: dict[str, _Server] = {}

    # ---- what is known ----

    def add(self, server: str) -> None:
        """It may be a choice, once it has said which model it holds."""
        self._servers.setdefault(server, _Server())

    def remove(self, server: str) -> None:
        """It is no choice any more."""
        self._servers.pop(server, None)

    def told(
        self, server: str, now: int, *, latency: int, open_sessions: int = 0, max_sessions: int = 1
    ) -> None:
        """It answered, in so many ns, and this is how busy it is. When it asked to be left alone, that still holds."""
        known = self._servers.get(server)
        if known is None:
            return
        known.latency = latency if known.latency is None else min(latency, known.latency)
        known.open_sessions, known.max_sessions, known.held_then = open_sessions, max_sessions, known.held
        if known.failures and now >= known.due:
            known.failures = 0

    def fit(self, server: str) -> None:
        """It holds the model."""
        if server in self._servers:
            self._servers[server].fits = True

    def unfit(self, server: str) -> None:
        """It holds another model: a log that was begun elsewhere never goes on there."""
        if server in self._servers:
            self._servers[server].fits = False

    def taken(self, server: str) -> None:
        """A session of this client is there."""
        if server in self._servers:
            self._servers[server].held += 1

    def left(self, server: str) -> None:
        """It is there no more."""
        if server in self._servers:
            self._servers[server].held -= 1

    def progressed(self, server: str) -> None:
        """It committed something: that, and no opened stream, is what says that it is well."""
        if server in self._servers:
            self._servers[server].failures = 0

    def failed(self, server: str, now: int) -> None:
        """A stream to it broke, or it did not answer. Many streams that break at once are one failure."""
        known = self._servers.get(server)
        if known is None or now < known.due:
            return
        known.failures += 1
        delay = min(self._first_delay * 2.0 ** min(known.failures - 1, 60), self._longest_delay)
        known.due = now + round(delay * SECOND)

    def refused(self, server: str, now: int, wait_ns: int | None = None) -> None:
        """It is full, and asks to be left alone for so long. Who asks for no time at all is not asked without end."""
        if server in self._servers:
            least = round(self._first_delay * SECOND)
            wait = round(self._full_for * SECOND) if wait_ns is None else max(wait_ns, least)
            self._servers[server].due = max(self._servers[server].due, now + wait)

    def draining(self, server: str, now: int, for_ns: int) -> None:
        """It goes away: for so long it answers, and takes nothing."""
        known = self._servers.get(server)
        if known is not None:
            known.failures += 1
            known.due = max(known.due, now + for_ns)

    # ---- the choice ----

    def fits(self, server: str) -> bool | None:
        """Whether it holds the model; None: that is not known (yet)."""
        known = self._servers.get(server)
        return None if known is None else known.fits

    def latency(self, server: str) -> int | None:
        """Shortest round trip, ns; None: it never answered."""
        known = self._servers.get(server)
        return None if known is None else known.latency

    def suspect(self, server: str) -> bool:
        """Whether it failed last, and has shown no progress since."""
        known = self._servers.get(server)
        return known is not None and known.failures > 0

    def choose(self, now: int, key: bytes, avoid: Collection[str] = (), wish: str = "") -> Choice | None:
        """The next server to dial; None: there is none that holds the model.

        Args:
            now: ns.
            key: with `Balance.HASH` what is to meet what it met before, else what decides between equals.
            avoid: servers that are no choice now.
            wish: the first choice, if it is one at all.
        """
        fit = {name: known for name, known in self._servers.items() if known.fits and name not in avoid}
        if wish in fit and fit[wish].due <= now:
            return Choice(wish, now)
        ready = {name: known for name, known in fit.items() if known.due <= now}
        sound = {name: known for name, known in ready.items() if not known.failures}
        if sound or ready:
            return Choice(self._best(sound or ready, key), now)
        if not fit:
            return None
        name = min(fit, key=lambda name: fit[name].due)
        return Choice(name, fit[name].due)

    def _best(self, servers: dict[str, _Server], key: bytes) -> str:
        names = list(servers)
        if self._balance is Balance.FIRST:
            return names[0]
        names.sort(key=lambda name: _weight(name, key), reverse=True)
        if self._balance is Balance.HASH:
            return names[0]
        if any(known.open_sessions for known in servers.values()):
            return min(names, key=lambda name: servers[name].share)
        return min(names[:2], key=lambda name: (servers[name].latency or 0) * (1 + servers[name].held))


def _weight(name: str, key: bytes) -> int:
    digest = hashlib.blake2b(key, key=hashlib.blake2b(name.encode(), digest_size=32).digest(), digest_size=8)
    return int.from_bytes(digest.digest())
