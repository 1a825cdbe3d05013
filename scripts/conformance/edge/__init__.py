"""Rules for edges: a scripted cloud. Import `RULES` and `ASSIST_RULES` from here; `Recordings` is what they look at."""

from scripts.conformance.edge import assist_rules as assist_rules
from scripts.conformance.edge import rules as rules
from scripts.conformance.edge.launch import CommandEdge, Edge
from scripts.conformance.edge.subject import ASSIST_RULES, RULES, Recordings

__all__ = ["ASSIST_RULES", "RULES", "CommandEdge", "Edge", "Recordings"]
