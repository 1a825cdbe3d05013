"""Rules for servers: a scripted client. Import `RULES` from here; `subject.Server` is what they look at."""

from scripts.conformance.server import attaching as attaching
from scripts.conformance.server import closing as closing
from scripts.conformance.server import committing as committing
from scripts.conformance.server import drafting as drafting
from scripts.conformance.server import ids as ids
from scripts.conformance.server import introduction as introduction
from scripts.conformance.server import leaving as leaving
from scripts.conformance.server import limits as limits
from scripts.conformance.server import opening as opening
from scripts.conformance.server import owning as owning
from scripts.conformance.server import reopening as reopening
from scripts.conformance.server import wire as wire
from scripts.conformance.server.subject import RULES, Server

__all__ = ["RULES", "Server"]
