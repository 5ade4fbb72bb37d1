"""What stays the same in training is found, kept as it is, and can be computed beforehand."""

import random

import numpy as np
import pytest
from operator_checks import bind, run_network
from xfer.training.frozen import find_fixed_outputs, freeze_statistics, start_at

from xfer.checkpoint.edit import data_dependent_nodes
from xfer.checkpoint.network import Network
from xfer.checkpoint.symbol import MxGraph, Node

SEEDS = range(40)
WIDTH = 4
KINDS = ["dense", "dense", "norm", "norm", "act", "leaky", "residual", "halves", "dropout"]


class Builder:
    """A graph that grows node by node, with values for its parameters."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.values = np.random.RandomState(seed)
        self.nodes, self.arguments, self.auxiliary = [], {}, {}

    def add(self, operator, name, *inputs, **attributes):
        attributes = {key: str(value) for key, value in attributes.items()}
        self.nodes.append(Node(operator, name, attributes, inputs))
        return len(self.nodes) - 1, 0

    def parameter(self, name, *shape, hold="arguments"):
        values = self.values.normal(size=shape, scale=0.7).astype(np.float32)
        getattr(self, hold)[name] = np.abs(values) + 0.5 if name.endswith("var") else values
        return self.add("null", name)

    def dense(self, name, entry):
        weight = self.parameter(f"{name}_weight", WIDTH, WIDTH)
        bias = self.parameter(f"{name}_bias", WIDTH)
        return self.add("FullyConnected", name, entry, weight, bias, num_hidden=WIDTH)

    def norm(self, name, entry, operator="BatchNorm", **attributes):
        learned = [self.parameter(f"{name}_{part}", WIDTH) for part in ("gamma", "beta")]
        statistics = [
            self.parameter(f"{name}_moving_{part}", WIDTH, hold="auxiliary")
            for part in ("mean", "var")
        ]
        attributes = {"fix_gamma": False, **attributes}
        return self.add(operator, name, entry, *learned, *statistics, **attributes)

    def layer(self, kind, name, entry, others):
        if kind in ("dense", "norm"):
            return getattr(self, kind)(name, entry)
        if kind == "residual":
            return self.add("elemwise_add", name, entry, self.rng.choice(others))
        if kind == "halves":
            cut, _ = self.add("SliceChannel", f"{name}_cut", entry, num_outputs=2, axis=1)
            half = cut, self.rng.choice([0, 1])
            if self.rng.random() < 0.5:
                scale = self.parameter(f"{name}_scale", 1, WIDTH // 2)
                half = self.add("broadcast_mul", f"{name}_scaled", half, scale)
            return self.add("Concat", name, (cut, 1), half, num_args=2, dim=1)
        if kind == "leaky":
            return self.add("LeakyReLU", name, entry, act_type="leaky")
        if kind == "dropout":
            return self.add("Dropout", name, entry, p=0.5)
        return self.add("Activation", name, entry, act_type="tanh")

    def network(self, head):
        graph = MxGraph(tuple(self.nodes), (head,))
        graph = graph.prune(graph.heads)
        whole = Network(graph, self.arguments, self.auxiliary, ["data"], [])
        return whole.with_graph(graph)


def random_network(seed):
    """A network of 12 layers with branches and a dense one at the end, and what is fixed in it."""
    builder = Builder(seed)
    entries = [builder.add("null", "data")]
    for i in range(12):
        kind = builder.rng.choice(KINDS)
        entry = builder.rng.choice(entries[-3:])
        entries.append(builder.layer(kind, f"{kind}{i}", entry, entries))
    network = builder.network(builder.dense("scores", entries[-1]))
    layers = [
        node for node in network.graph.nodes if node.operator in ("FullyConnected", "BatchNorm")
    ]
    # Below some layer most are fixed, as users do it; and here and there one above.
    border = builder.rng.randint(0, len(layers))
    fixed = set()
    for i, node in enumerate(layers):
        if node.name != "scores" and builder.rng.random() < (0.9 if i < border else 0.3):
            fixed |= {network.graph.nodes[source].name for source, _ in node.inputs[1:]}
    return network, fixed


def run_mxnet(mx, graph, network, inputs, training=True):
    """Run a graph on MXNet: its outputs, and the statistics afterwards."""
    symbol = mx.sym.load_json(graph.to_json())
    arguments = {**network.arguments, **inputs}
    arrays = {name: mx.nd.array(arguments[name]) for name in symbol.list_arguments()}
    states = {name: mx.nd.array(network.auxiliary[name]) for name in symbol.list_auxiliary_states()}
    gradients = {name: mx.nd.zeros(array.shape) for name, array in arrays.items()}
    executor = bind(mx, symbol, arrays, states, gradients)
    outputs = [output.asnumpy() for output in executor.forward(is_train=training)]
    if training:  # running statistics are updated by it
        executor.backward([mx.nd.ones(output.shape) for output in outputs])
        mx.nd.waitall()  # or reading them does not wait for it
    return outputs, {name: array.asnumpy() for name, array in states.items()}


def random_data(seed, rows=6):
    return np.random.RandomState(seed).normal(size=(rows, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("seed", SEEDS)
def test_fixed_outputs_are_the_same_whatever_training_does(mx, seed):
    """With other trained parameters, other examples in the batch and another seed."""
    network, fixed = random_network(seed)
    graph = freeze_statistics(network.graph, fixed)
    entries = find_fixed_outputs(graph, fixed, ["data"])
    if not entries:
        return
    cut, data = graph.prune(entries.values()), random_data(seed)
    expected, _ = run_mxnet(mx, cut, network, {"data": data}, training=False)
    moved = Network(
        network.graph,
        {k: v if k in fixed else v + 1 for k, v in network.arguments.items()},
        {k: v if k in fixed else v + 1 for k, v in network.auxiliary.items()},
        ["data"],
        [],
    )
    others = np.concatenate([data[:2], 5 + random_data(seed + 1)])
    outputs, statistics = run_mxnet(mx, cut, moved, {"data": others})
    for name, found, first in zip(entries, outputs, expected):
        np.testing.assert_allclose(found[:2], first[:2], atol=1e-5, err_msg=name)
    for name in statistics.keys() & fixed:
        np.testing.assert_array_equal(statistics[name], network.auxiliary[name])


@pytest.mark.parametrize("seed", SEEDS)
def test_starting_there_gives_what_the_whole_gives(mx, seed):
    network, fixed = random_network(seed)
    graph = freeze_statistics(network.graph, fixed)
    entries, data = find_fixed_outputs(graph, fixed, ["data"]), random_data(seed)
    if not entries:
        return
    names = list(entries)
    inputs = {"data": data, **dict(zip(names, run_network(network, {"data": data}, names)))}
    part = start_at(graph, entries)
    (expected,) = run_network(network, {"data": data}, ["scores"])
    (found,), _ = run_mxnet(mx, part, network, inputs, training=False)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    cut = network.with_graph(part)
    cut = Network(cut.graph, cut.arguments, cut.auxiliary, [*cut.input_names, *names], [])
    inputs = {name: inputs[name] for name in cut.input_names}
    (found,) = run_network(cut, inputs, ["scores"])
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_fixed_is_left_behind(seed):
    network, fixed = random_network(seed)
    graph = freeze_statistics(network.graph, fixed)
    entries = find_fixed_outputs(graph, fixed, ["data"])
    part = start_at(graph, entries)
    assert not find_fixed_outputs(part, fixed, ["data", *entries])
    variables = {node.name for node in part.nodes if node.is_variable}
    dependent = data_dependent_nodes(graph, ["data"])
    trained = {node.name for node in graph.nodes if node.is_variable} - fixed - {"data"}
    learned = {name for name in trained if name in network.arguments}
    assert learned <= variables, "what is trained is still there"
    assert {*entries} <= variables
    assert all(node_id in dependent for node_id, _ in entries.values())


def test_the_random_graphs_try_what_they_should():
    found = [random_network(seed) for seed in SEEDS]
    entries = [
        find_fixed_outputs(freeze_statistics(network.graph, fixed), fixed, ["data"])
        for network, fixed in found
    ]
    counts = [len(one) for one in entries]
    assert counts.count(0) < len(counts) / 2
    assert sum(count > 1 for count in counts) > 3, "several fixed outputs"
    assert any("cut_output" in name for one in entries for name in one), "one of several outputs"
    kept = [start_at(network.graph, one) for (network, _), one in zip(found, entries) if one]
    assert any("data" in {node.name for node in part.nodes} for part in kept), "data are read still"


@pytest.mark.parametrize("seed", SEEDS)
def test_statistics_stay_where_scale_and_shift_do_and_nowhere_else(mx, seed):
    network, fixed = random_network(seed)
    graph = freeze_statistics(network.graph, fixed)
    _, statistics = run_mxnet(mx, graph, network, {"data": 3 + random_data(seed)})
    for node in graph.nodes:
        if node.operator == "BatchNorm":
            names = [graph.nodes[source].name for source, _ in node.inputs]
            stays = {*names[1:3]} <= fixed
            assert (node.attributes.get("use_global_stats") == "True") == stays
            for name in names[3:]:
                same = np.array_equal(statistics[name], network.auxiliary[name])
                assert same == stays, name


NORMS = {
    "BatchNorm": {},
    "BatchNorm_v1": {},
    "_contrib_SyncBatchNorm": {"key": "one"},
    "_contrib_BatchNormWithReLU": {},
}


def norm_network(operator, **attributes):
    builder = Builder(0)
    norm = builder.norm("norm", builder.add("null", "data"), operator, **attributes)
    return builder.network(builder.dense("scores", norm))


@pytest.mark.parametrize("operator", NORMS)
def test_every_kind_of_batch_norm(operator):
    network = norm_network(operator, **NORMS[operator])
    for fixed in ([], ["norm_gamma"], ["norm_beta"]):
        assert freeze_statistics(network.graph, fixed) == network.graph
        assert not find_fixed_outputs(network.graph, fixed, ["data"])
    fixed = ["norm_gamma", "norm_beta"]
    assert not find_fixed_outputs(network.graph, fixed, ["data"]), "it looks at the batch"
    frozen = freeze_statistics(network.graph, fixed)
    assert list(find_fixed_outputs(frozen, fixed, ["data"])) == ["norm"]


def test_a_frozen_batch_norm_gives_in_training_what_it_gives_in_inference(mx):
    network = norm_network("BatchNorm")
    graph = freeze_statistics(network.graph, ["norm_gamma", "norm_beta"])
    inputs = {"data": random_data(0)}
    before = run_mxnet(mx, network.graph, network, inputs, training=False)
    after = run_mxnet(mx, graph, network, inputs)
    np.testing.assert_allclose(after[0][0], before[0][0], atol=1e-5)
    for name, array in after[1].items():
        np.testing.assert_array_equal(array, network.auxiliary[name])
    control, statistics = run_mxnet(mx, network.graph, network, inputs)
    assert np.abs(control[0] - before[0][0]).max() > 0.1
    assert not np.array_equal(statistics["norm_moving_mean"], network.auxiliary["norm_moving_mean"])


@pytest.mark.parametrize(
    "operator", ["Dropout", "_random_normal_like", "LeakyReLU", "RNN", "Custom", "no_such_operator"]
)
def test_random_and_unknown_operators_are_not_fixed(operator):
    builder = Builder(0)
    below = builder.dense("below", builder.add("null", "data"))
    network = builder.network(builder.dense("scores", builder.add(operator, "middle", below)))
    fixed = ["below_weight", "below_bias"]
    assert list(find_fixed_outputs(network.graph, fixed, ["data"])) == ["below"]


def test_all_or_nothing_fixed():
    builder = Builder(0)
    network = builder.network(builder.dense("scores", builder.add("null", "data")))
    for fixed in ([], ["scores_weight"], ["scores_weight", "scores_bias"]):
        assert find_fixed_outputs(network.graph, fixed, ["data"]) == {}
    assert start_at(network.graph, {}) == network.graph


def test_several_fixed_outputs_of_one_layer_read_by_one_other():
    """And a residual branch that passes the trained layer by."""
    builder = Builder(0)
    below = builder.dense("below", builder.add("null", "data"))
    cut, _ = builder.add("SliceChannel", "cut", below, num_outputs=2, axis=1)
    joined = builder.add("Concat", "joined", (cut, 1), (cut, 0), num_args=2, dim=1)
    trained = builder.dense("trained", joined)
    network = builder.network(builder.add("elemwise_add", "sum", trained, below))
    fixed = ["below_weight", "below_bias"]
    entries = find_fixed_outputs(network.graph, fixed, ["data"])
    assert {*entries} == {"below", "joined"}
    part = start_at(network.graph, entries)
    assert {node.name for node in part.nodes} == {
        *("below", "joined", "trained_weight", "trained_bias", "trained", "sum")
    }
    assert sum(node.is_variable for node in part.nodes) == 4
    trained = [*fixed, "trained_weight"]
    entries = find_fixed_outputs(network.graph, trained, ["data"])
    assert {*entries} == {"below", "joined"}, "a bias that is trained is enough"
    halves = MxGraph(network.graph.nodes, network.graph.heads)
    node_id = next(k for k, node in enumerate(halves.nodes) if node.name == "cut")
    cut = start_at(halves, {"cut_output0": (node_id, 0), "cut_output1": (node_id, 1)})
    (concat,) = (node for node in cut.nodes if node.name == "joined")
    assert [cut.nodes[source].name for source, _ in concat.inputs] == ["cut_output1", "cut_output0"]
