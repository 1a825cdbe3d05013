"""Rules for edges: a scripted cloud. Import `RULES` from here; `Recordings` is what they look at."""

from scripts.conformance.edge import rules as rules
from scripts.conformance.edge.launch import CommandEdge, Edge
from scripts.conformance.edge.subject import RULES, Recordings

__all__ = ["RULES", "CommandEdge", "Edge", "Recordings"]
