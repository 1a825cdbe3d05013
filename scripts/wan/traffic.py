"""What has passed over a link."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Packets:
    """IP packets of one direction."""

    delivered: int = 0
    bytes: int = 0
    """Of those delivered, IP and TCP headers, acknowledgements and repetitions included."""
    lost: int = 0
    """By loss, an outage or a full queue."""
    late: int = 0
    """Of those delivered: more than 1 ms after their time, because the machine was busy."""
    latest_ms: float = 0.0
    """The worst of those."""


@dataclass(slots=True)
class Traffic:
    """What came out of the link so far."""

    bytes_up: int = 0
    """Of streams, without headers; to the cloud."""
    bytes_down: int = 0
    """To the edge."""
    connections: int = 0
    packets_up: Packets | None = None
    """None: this enforcer has no packets."""
    packets_down: Packets | None = None

    def up(self, size: int) -> None:
        """Towards the target."""
        self.bytes_up += size

    def down(self, size: int) -> None:
        """Back."""
        self.bytes_down += size

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Traffic:
        """The inverse."""
        fields = json.loads(text)
        for name in ("packets_up", "packets_down"):
            if fields[name] is not None:
                fields[name] = Packets(**fields[name])
        return cls(**fields)
