"""One generation, watched: when its tokens came, and where it was opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from edge_client.driver import Event
from edge_client.transport import Dialled, Received
from shared.messages import Opened
from shared.session.edge import Emit

NS_PER_MS = 1_000_000


@dataclass(slots=True)
class Watch:
    """Takes a session's events (`edge_client.driver.Observe`)."""

    commits: list[int] = field(default_factory=list)
    """ns of each."""
    tokens: int = 0
    servers: list[str] = field(default_factory=list)
    """Where it was opened."""
    opened: list[int] = field(default_factory=list)
    """ns of each."""
    _dialled: dict[int, str] = field(default_factory=dict)

    def observe(self, now: int, event: Event) -> None:
        """See `edge_client.driver.Observe`."""
        match event:
            case Emit(_, tokens):
                self.commits.append(now)
                self.tokens += len(tokens)
            case Dialled(stream, server):
                self._dialled[stream] = server
            case Received(stream, Opened()):
                self.servers.append(self._dialled[stream])
                self.opened.append(now)
            case _:
                pass

    @property
    def gaps_ms(self) -> list[float]:
        """Between neighbouring commits."""
        return [(b - a) / NS_PER_MS for a, b in pairwise(self.commits)]

    def pause_ms(self, since: int) -> float:
        """The longest gap between commits that ended after `since` (ns)."""
        return max(
            ((b - a) / NS_PER_MS for a, b in pairwise(self.commits) if b > since),
            default=0.0,
        )
