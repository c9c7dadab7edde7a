"""Looks at the graph without the reader."""

import json
from typing import Any

import neo4j

from tests.harness import Neo4jServer

NODES = "MATCH (n) RETURN labels(n) AS labels, properties(n) AS properties"
RELATIONS = "MATCH (a)-[r]->(b) RETURN labels(a), a.id, type(r) AS type, properties(r) AS properties, labels(b), b.id"


def query(server: Neo4jServer, statement: str, **parameters: Any) -> list[dict[str, Any]]:
    with neo4j.GraphDatabase.driver(server.uri, auth=server.auth) as driver:
        return [row.data() for row in driver.execute_query(statement, parameters).records]


def everything(server: Neo4jServer) -> list[str]:
    """Every node and relation with all properties, in an order that does not depend on how they came to be."""
    return sorted(json.dumps(row, sort_keys=True) for row in query(server, NODES) + query(server, RELATIONS))


def targets(server: Neo4jServer, label: str, id: str, relation: str) -> set[str]:
    """The ids of the nodes that `relation` leads to."""
    statement = f"MATCH (n:{label} {{id: $id}})-[:{relation}]->(m) RETURN m.id AS id"
    rows = query(server, statement, id=id)
    assert len(rows) == len({row["id"] for row in rows}), f"{relation} twice: {rows}"
    return {row["id"] for row in rows}
