"""Rules for servers: a scripted client. Import `RULES` from here; `Server` is what they look at."""

from scripts.conformance.server import (
    attaching,
    closing,
    committing,
    drafting,
    ids,
    introduction,
    leaving,
    limits,
    opening,
    owning,
    reopening,
    wire,
)
from scripts.conformance.server.subject import RULES, Server

__all__ = ["RULES", "Server"]

RULES.arrange(
    [
        introduction,
        opening,
        committing,
        drafting,
        ids,
        limits,
        closing,
        reopening,
        attaching,
        owning,
        wire,
        leaving,
    ]
)
