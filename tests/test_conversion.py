"""A graph is converted once; what could not be converted matters only to what depends on it."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from operator_checks import open_session, run_network

from xfer.checkpoint.convert import convert
from xfer.checkpoint.network import Network, auxiliary_names
from xfer.checkpoint.onnx_builder import BATCH, UnknownShape
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.symbol import MxGraph, Node

SHAPES = {"data": (BATCH, 4)}


def network_of(*nodes, heads=None, auxiliary=(), **arguments):
    """A network by names: (operator, name, input names..., attributes)."""
    names = [name for _, name, *_ in nodes]
    built = []
    for operator, name, *inputs in nodes:
        attributes = inputs.pop() if inputs and isinstance(inputs[-1], dict) else {}
        entries = tuple((names.index(one), 0) for one in inputs)
        built.append(Node(operator, name, attributes, entries))
    graph = MxGraph(tuple(built), tuple((names.index(one), 0) for one in heads or names[-1:]))
    return Network(graph, arguments, dict(auxiliary), ["data"], [])


def branches():
    """One branch converts; others need an unknown operator, a label or another shape."""
    return network_of(
        ("null", "data"),
        ("null", "w"),
        ("null", "label"),
        ("null", "absent"),
        ("FullyConnected", "fc", "data", "w", {"num_hidden": "3", "no_bias": "True"}),
        ("tanh", "good", "fc"),
        ("_no_such", "unknown", "good"),
        ("softmax", "after_unknown", "unknown"),
        ("Custom", "other", "after_unknown"),
        ("softmax_cross_entropy", "loss", "good", "label"),
        ("broadcast_add", "sum", "good", "absent"),
        ("dot", "wrong", "good", "good"),
        ("relu", "after_wrong", "wrong"),
        heads=["good", "other", "loss"],
        w=np.random.RandomState(0).normal(size=(3, 4)).astype(np.float32),
    )


def head_of(network, name):
    return [network.positions[name]]


class TestProblems:
    def test_conversion_goes_on_after_a_problem(self):
        network = branches()
        conversion = convert(network.graph, network.parameters, network.typed(SHAPES))
        names = [network.graph.nodes[node_id].name for node_id in conversion.problems]
        assert {"unknown", "other", "sum", "wrong"} <= {*names}
        assert not {"fc", "good"} & {*names}
        conversion.check(head_of(network, "good"))
        conversion.check([])

    def test_all_operators_without_conversion_are_named(self):
        network = branches()
        conversion = convert(network.graph, network.parameters, network.typed(SHAPES))
        both = (
            r"no conversion for operator _no_such \(layer 'unknown'\), "
            r"operator Custom \(layer 'other'\); the \d+ that are supported"
        )
        with pytest.raises(Unsupported, match=both):
            conversion.check(head_of(network, "other"))
        with pytest.raises(Unsupported, match=r"no conversion for operator _no_such \([^,]*; the"):
            conversion.check(head_of(network, "after_unknown"))

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("after_wrong", r"layer 'wrong' \(dot\): MatMul does not take \(n, 3\), \(n, 3\)"),
            ("sum", r"layer 'sum' \(broadcast_add\): there is no parameter 'absent', and no such"),
        ],
    )
    def test_the_first_problem_is_raised(self, name, message):
        network = branches()
        conversion = convert(network.graph, network.parameters, network.typed(SHAPES))
        with pytest.raises(ValueError, match=message) as caught:
            conversion.check(head_of(network, name))
        assert type(caught.value) is ValueError
        assert caught.value.__cause__ is not None

    def test_unknown_shapes_are_told_from_wrong_ones(self):
        network = network_of(
            ("null", "data"), ("_contrib_div_sqrt_dim", "scaled", "data"), ("relu", "r", "scaled")
        )
        conversion = convert(network.graph, {}, network.typed({"data": (BATCH, None)}))
        with pytest.raises(UnknownShape, match=r"layer 'scaled' .*: needs the shape of 'data'"):
            conversion.check(network.graph.heads)


class TestBuild:
    def test_only_what_the_outputs_need_is_written(self):
        network = branches()
        conversion = convert(network.graph, network.parameters, network.typed(SHAPES))
        conversion.builder.add_output("good", conversion.values[network.positions["good"]])
        model, arrays = conversion.builder.build()
        assert [node.op_type for node in model.graph.node] == ["Gemm", "Tanh"]
        assert {*arrays} == {"w"}
        assert [entry.name for entry in model.graph.input] == ["data"]

    def test_whole_and_cut_graphs_give_the_same_numbers(self, shared):
        """Each layer of a real network, from one conversion of it all."""
        network = Network.from_files(shared / "models" / "mnist_lenet", 10)
        data = {"data": np.random.RandomState(0).normal(size=(3, 1, 28, 28)).astype(np.float32)}
        names = list(network.positions)
        shapes = {"data": (BATCH, 1, 28, 28)}
        conversion = convert(network.graph, network.parameters, network.typed(shapes))
        conversion.check(network.positions.values())
        for name, entry in network.positions.items():
            conversion.builder.add_output(name, conversion.values[entry])
        found = open_session(conversion.builder).run(names, data)
        for name, values in zip(names, found):
            (expected,) = run_network(network, data, [name])
            np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6, err_msg=name)


class TestNetwork:
    def test_layers(self):
        network = branches()
        conversion = convert(network.graph, network.parameters, network.typed(SHAPES))
        layers = {name: rest for name, *rest in network.layers(conversion)}
        assert layers["fc"] == ["FullyConnected", (BATCH, 3), 12]
        assert layers["good"] == ["tanh", (BATCH, 3), 0]
        assert layers["other"] == ["Custom", None, 0]
        unknown = {name: rest for name, *rest in network.layers(None)}
        assert unknown["fc"] == ["FullyConnected", None, 12]
        assert list(unknown) == list(layers) == list(network.positions)

    def test_state(self):
        network = network_of(
            ("null", "data"),
            *(("null", name) for name in ("gamma", "beta", "mean", "var")),
            ("BatchNorm", "bn", "data", "gamma", "beta", "mean", "var"),
            auxiliary={"mean": np.zeros(4), "var": np.ones(4)},
            gamma=np.ones(4),
            beta=np.zeros(4),
        )
        state, arrays = network.to_state()
        assert {*arrays} == {"arg:gamma", "arg:beta", "aux:mean", "aux:var"}
        again = Network.from_state(json.loads(json.dumps(state)), arrays)
        assert again.graph == network.graph
        assert {*again.auxiliary} == auxiliary_names(network.graph) == {"mean", "var"}
        assert (again.input_names, again.idle_names) == (["data"], [])
        assert again.fingerprint(["bn"]) == network.fingerprint(["bn"])

    def test_loops_are_read_and_written(self):
        network = network_of(("null", "data"), ("_foreach", "loop", "data"))
        assert network.with_graph(network.graph).graph == network.graph
        assert Network.from_state(*network.to_state()).graph == network.graph

    def test_export(self, tmp_path):
        network, path = branches(), tmp_path / "net.onnx"
        assert network.export(path, SHAPES, ["good", "fc"]) == ["good", "fc"]
        onnx.checker.check_model(onnx.load(path), full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        data = {"data": np.ones((2, 4), np.float32)}
        for found, expected in zip(
            session.run(None, data), run_network(network, data, ["good", "fc"])
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        before = path.read_bytes()
        with pytest.raises(Unsupported, match="no conversion for operator _no_such"):
            network.export(path, SHAPES)
        assert path.read_bytes() == before
        scaled = network_of(("null", "data"), ("_contrib_div_sqrt_dim", "scaled", "data"))
        with pytest.raises(UnknownShape, match="give the sizes of one example"):
            scaled.export(path, {"data": (BATCH, None)})
        assert sorted(tmp_path.iterdir()) == [path]
