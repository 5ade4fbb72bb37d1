"""The graph of an MXNet network, read from its ``-symbol.json`` of any version."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from xfer.checkpoint.legacy import upgrade

_HOLDS_GRAPHS = ("_foreach", "_while_loop", "_cond")


@dataclass(frozen=True)
class Node:
    """A variable or an operator.

    Parameters
    ----------
    operator : str
        The name that MXNet 1.9 gives the operator; ``"null"`` for a variable.
    name : str
        Two nodes may have the same.
    attributes : mapping of str to str
        What the operator was told; nothing that only training needs. Of a variable, ``__shape__``
        and ``__dtype__`` where they are known. Kept as a copy that cannot be changed.
    inputs : tuple of (int, int)
        Number of the node, and which of its outputs, for each input.
    training : mapping of str to str
        Hints that only training needs, such as ``__lr_mult__`` and ``__init__``. Nodes that differ
        in them alone are equal. Kept like the attributes.
    """

    operator: str
    name: str
    attributes: Mapping = field(default_factory=dict, hash=False)
    inputs: tuple = ()
    training: Mapping = field(default_factory=dict, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))
        object.__setattr__(self, "training", MappingProxyType(dict(self.training)))

    def __reduce__(self):
        # Pickle knows no mapping proxy, and a model may travel to another process.
        mappings = dict(self.attributes), dict(self.training)
        return Node, (self.operator, self.name, mappings[0], self.inputs, mappings[1])

    @property
    def is_variable(self):
        """Whether it is an input or a parameter (bool)."""
        return self.operator == "null"


@dataclass(frozen=True)
class Graph:
    """A network without its parameters.

    Graphs are equal if their nodes and heads are, each in its place. To ask whether two files
    hold the same network, prune both graphs to their own heads first.

    Parameters
    ----------
    nodes : tuple of Node
        Each after what it needs.
    heads : tuple of (int, int)
        Number of the node, and which of its outputs, for each output of the network.
    """

    nodes: tuple
    heads: tuple

    @classmethod
    def from_json(cls, text):
        """Read the JSON that MXNet writes.

        Parameters
        ----------
        text : str or bytes
            What is in a ``-symbol.json`` of any version since 0.8.

        Returns
        -------
        Graph
            In the form of MXNet 1.9, whatever the version of the file.

        Raises
        ------
        ValueError
            If it is no such JSON, or its graph is broken.

        Examples
        --------
        >>> graph = Graph.from_json('''{"heads": [[1, 0]], "nodes": [
        ...     {"op": "null", "name": "data", "inputs": []},
        ...     {"op": "Flatten", "name": "flat", "inputs": [[0, 0]]}]}''')
        >>> graph
        Graph(1 operators, 1 variables)
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

    def to_json(self):
        """Write the JSON that MXNet 1.9 writes, and reads.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If an operator holds a graph of its own, as loops do: it is not kept here.
        """
        for node in self.nodes:
            if node.operator in _HOLDS_GRAPHS:
                raise ValueError(
                    f"layer {node.name!r} ({node.operator}) holds a graph of its own, and such "
                    "networks can be read but not written"
                )
        nodes = [
            {
                "op": node.operator,
                "name": node.name,
                "attrs": {**node.attributes, **node.training},
                "inputs": [[*source, 0] for source in node.inputs],
            }
            for node in self.nodes
        ]
        variables = [number for number, node in enumerate(self.nodes) if node.is_variable]
        return write_json(
            {
                "nodes": nodes,
                "arg_nodes": variables,
                "heads": [[*head, 0] for head in self.heads],
                "attrs": {"mxnet_version": ["int", 10901]},
            }
        )

    def prune(self, heads):
        """Keep what some outputs need.

        Parameters
        ----------
        heads : iterable of (int, int)
            Number of the node, and which of its outputs.

        Returns
        -------
        Graph
            With these heads. The order of its nodes depends on nothing but what it holds.

        Raises
        ------
        ValueError
            If a head is no node of this graph.
        """
        heads = tuple(heads)
        numbers, nodes = {}, []
        for head, _ in heads:
            if not 0 <= head < len(self.nodes):
                raise ValueError(
                    f"a head should be one of the {len(self.nodes)} nodes, found node {head}"
                )
            # Depth first, with a stack of its own: networks are deeper than Python's.
            stack = [head]
            while stack:
                number = stack[-1]
                if number in numbers:
                    stack.pop()
                    continue
                node = self.nodes[number]
                waiting = [source for source, _ in node.inputs if source not in numbers]
                if waiting:
                    stack.extend(reversed(waiting))
                    continue
                numbers[number] = len(nodes)
                inputs = tuple((numbers[source], output) for source, output in node.inputs)
                nodes.append(replace(node, inputs=inputs))
        return Graph(tuple(nodes), tuple((numbers[head], output) for head, output in heads))

    def __repr__(self):
        operators = sum(not node.is_variable for node in self.nodes)
        return f"Graph({operators} operators, {len(self.nodes) - operators} variables)"


def write_json(graph):
    """Write a parsed graph so that MXNet reads it.

    Parameters
    ----------
    graph : dict

    Returns
    -------
    str
        JSON, but for control characters in names: like other letters they stand for themselves, as
        MXNet knows no escapes by number.
    """
    return _ESCAPE.sub(_unescaped, json.dumps(graph, ensure_ascii=False))


# Whole escapes, so that a backslash that is one itself begins none.
_ESCAPE = re.compile(r"\\(u[0-9a-f]{4}|.)")


def _unescaped(escape):
    known = escape[1] in ("n", "r", "t", "\\", '"')
    return escape[0] if known else json.loads(f'"{escape[0]}"')
