"""Neo4j, Fleet's permanent record."""

from fleet.graph.client import Graph
from fleet.graph.reader import PlanRecord, deliberation_of

__all__ = ["Graph", "PlanRecord", "deliberation_of"]
