"""The graph of an MXNet network, read from its ``-symbol.json`` of any version."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from xfer.checkpoint.legacy import upgrade

#: The index of a node, and the index of one of its outputs.
Entry = tuple[int, int]


@dataclass(frozen=True)
class Node:
    """A variable (whose operator is ``"null"``) or an operator; its mappings cannot be changed.

    Operators go by the names of MXNet 1.9. ``training`` holds hints that only training needs, such
    as ``__lr_mult__``; nodes that differ only in them are equal. ``subgraphs`` are the bodies of
    loops and conditions, as in the file.
    """

    operator: str
    name: str
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    inputs: tuple[Entry, ...] = ()
    training: Mapping[str, str] = field(default_factory=dict, compare=False)
    subgraphs: tuple[Any, ...] = field(default=(), hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))
        object.__setattr__(self, "training", MappingProxyType(dict(self.training)))

    def __reduce__(self) -> tuple:
        # Pickle cannot write a mapping proxy, and a model may travel to another process.
        attributes, training = dict(self.attributes), dict(self.training)
        fields = self.operator, self.name, attributes, self.inputs, training, self.subgraphs
        return Node, fields

    @property
    def is_variable(self) -> bool:
        """Whether it is an input, a label or a parameter."""
        return self.operator == "null"


@dataclass(frozen=True)
class MxGraph:
    """The graph of an MXNet network: nodes in topological order, and the outputs as heads.

    Graphs are equal if their nodes and heads are equal and in the same order. To tell whether two
    files hold the same network, prune both graphs to their own heads first.

    Attributes
    ----------
    nodes : tuple of Node
        Operators and variables, each after those that it reads.
    heads : tuple of (int, int)
        The outputs: the index of a node, and which of its outputs.
    """

    nodes: tuple[Node, ...]
    heads: tuple[Entry, ...]

    @classmethod
    def from_json(cls, text: str | bytes) -> "MxGraph":
        """Read a ``-symbol.json`` of any version since 0.8; ValueError if it is broken.

        The graph has the form of MXNet 1.9, whatever the version of the file.

        >>> graph = MxGraph.from_json('''{"heads": [[1, 0]], "nodes": [
        ...     {"op": "null", "name": "data", "inputs": []},
        ...     {"op": "Flatten", "name": "flat", "inputs": [[0, 0]]}]}''')
        >>> graph
        MxGraph(1 operators, 1 variables)
        >>> graph.nodes[1].inputs
        ((0, 0),)
        """
        try:
            # Not strict: MXNet does not escape control characters in a name.
            found = json.loads(text, strict=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"the graph is not JSON: {error}") from None
        nodes, heads = upgrade(found)
        return cls(tuple(Node(*node) for node in nodes), heads)

    def to_json(self) -> str:
        """Write the JSON that MXNet 1.9 writes and reads."""
        nodes = [
            {
                "op": node.operator,
                "name": node.name,
                "attrs": dict(node.attributes) | dict(node.training),
                "inputs": [[*source, 0] for source in node.inputs],
                **({"subgraphs": list(node.subgraphs)} if node.subgraphs else {}),
            }
            for node in self.nodes
        ]
        variables = [node_id for node_id, node in enumerate(self.nodes) if node.is_variable]
        graph = {
            "nodes": nodes,
            "arg_nodes": variables,
            "heads": [[*head, 0] for head in self.heads],
            "attrs": {"mxnet_version": ["int", 10901]},
        }
        # MXNet cannot read numeric escapes, as json writes for control characters.
        return _ESCAPE.sub(_unescaped, json.dumps(graph, ensure_ascii=False))

    def prune(self, heads: Iterable[Entry]) -> "MxGraph":
        """Keep the nodes that some outputs depend on; their order depends only on the content."""
        heads = tuple(heads)
        new_ids: dict[int, int] = {}
        nodes: list[Node] = []
        for head, _ in heads:
            if not 0 <= head < len(self.nodes):
                allowed = f"one of the {len(self.nodes)} nodes"
                raise ValueError(f"a head should be {allowed}, found node {head}")
            # Depth first without recursion: networks are deeper than Python's stack.
            stack = [head]
            while stack:
                node_id = stack[-1]
                if node_id in new_ids:
                    stack.pop()
                    continue
                node = self.nodes[node_id]
                pending = [source for source, _ in node.inputs if source not in new_ids]
                if pending:
                    stack.extend(reversed(pending))
                    continue
                new_ids[node_id] = len(nodes)
                inputs = tuple((new_ids[source], output) for source, output in node.inputs)
                nodes.append(replace(node, inputs=inputs))
        return MxGraph(tuple(nodes), tuple((new_ids[head], output) for head, output in heads))

    def __repr__(self) -> str:
        operators = sum(not node.is_variable for node in self.nodes)
        return f"MxGraph({operators} operators, {len(self.nodes) - operators} variables)"


# Whole escapes: an escaped backslash begins no other escape.
_ESCAPE = re.compile(r"\\(u[0-9a-f]{4}|.)")


def _unescaped(escape: re.Match[str]) -> str:
    known = escape[1] in ("n", "r", "t", "\\", '"')
    return escape[0] if known else json.loads(f'"{escape[0]}"')
