from collections.abc import Iterator

import pytest

from fleet.graph import Graph
from tests.harness import Neo4jServer


@pytest.fixture(scope="module")
def graph(neo4j_server: Neo4jServer) -> Iterator[Graph]:
    with Graph(neo4j_server.uri, neo4j_server.user, neo4j_server.password) as graph:
        graph.ensure_schema()
        yield graph
