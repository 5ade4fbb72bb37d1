"""Layers dropped and added, on random graphs with branches, shared weights and several outputs."""

import random

import numpy as np
import pytest
from operator_checks import bind, run_network

from xfer.checkpoint import edit
from xfer.checkpoint.convert import output_names
from xfer.checkpoint.edit import (
    ModelError,
    data_dependent_nodes,
    find_input,
    find_layer,
    find_parameters,
)
from xfer.checkpoint.network import Network
from xfer.checkpoint.symbol import MxGraph, Node

SEEDS = range(60)
WIDTH = 4


class Builder:
    """A graph that grows node by node, with values for its parameters."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.values = np.random.RandomState(seed)
        self.nodes, self.arguments, self.auxiliary = [], {}, {}

    def add(self, operator, name, inputs=(), **attributes):
        attributes = {key: str(value) for key, value in attributes.items()}
        self.nodes.append(Node(operator, name, attributes, tuple(inputs)))
        return len(self.nodes) - 1, 0

    def parameter(self, name, shape, hold="arguments"):
        values = self.values.normal(size=shape, scale=0.6).astype(np.float32)
        getattr(self, hold)[name] = np.abs(values) + 0.5 if name.endswith("var") else values
        return self.add("null", name)

    def layer(self, kind, name, entry, others):
        """Add what keeps (n, WIDTH) as it is, and return its entry."""
        if kind == "dense":
            weight = self.parameter(f"{name}_weight", (WIDTH, WIDTH))
            inputs = entry, weight, self.parameter(f"{name}_bias", (WIDTH,))
            return self.add("FullyConnected", name, inputs, num_hidden=WIDTH)
        if kind == "shared":
            if "shared_weight" not in self.arguments:
                self.parameter("shared_weight", (WIDTH, WIDTH))
            names = [node.name for node in self.nodes]
            inputs = entry, (names.index("shared_weight"), 0)
            return self.add("FullyConnected", name, inputs, num_hidden=WIDTH, no_bias=True)
        if kind == "computed":
            flat = self.parameter(f"{name}_flat", (WIDTH * WIDTH,))
            weight = self.add("Reshape", f"{name}_shaped", [flat], shape=(WIDTH, WIDTH))
            return self.add("FullyConnected", name, [entry, weight], num_hidden=WIDTH, no_bias=True)
        if kind == "norm":
            inputs = [entry]
            for part in ("gamma", "beta", "moving_mean", "moving_var"):
                hold = "auxiliary" if part.startswith("moving") else "arguments"
                inputs.append(self.parameter(f"{name}_{part}", (WIDTH,), hold))
            return self.add("BatchNorm", name, inputs, fix_gamma=False)
        if kind == "residual":
            return self.add("elemwise_add", name, [entry, self.rng.choice(others)])
        if kind == "halves":
            cut = self.add("SliceChannel", f"{name}_cut", [entry], num_outputs=2, axis=1)
            parts = [(cut[0], 1), (cut[0], self.rng.choice([0, 1]))]
            return self.add("Concat", name, parts, num_args=2, dim=1)
        if kind == "twice":
            return self.add("elemwise_mul", name, [entry, entry])
        return self.add("Activation", name, [entry], act_type="tanh")


KINDS = [
    "dense",
    "dense",
    "act",
    "act",
    "shared",
    "computed",
    "norm",
    "residual",
    "halves",
    "twice",
]


def random_network(seed):
    """A network on data (n, WIDTH): chains, branches, shared and computed weights, labels."""
    build = Builder(seed)
    entry = build.add("null", "data", __shape__=(0, WIDTH))
    reached = [entry]
    for number in range(build.rng.randint(2, 9)):
        if build.rng.random() < 0.15:
            entry = build.rng.choice(reached)
        entry = build.layer(build.rng.choice(KINDS), f"l{number}", entry, reached)
        reached.append(entry)
    if build.rng.random() < 0.4:
        entry = build.add("SoftmaxOutput", "out", [entry, build.add("null", "out_label")])
    heads = [entry]
    if build.rng.random() < 0.2:
        heads += build.rng.sample(reached[1:], k=1)
    graph = MxGraph(tuple(build.nodes), tuple(dict.fromkeys(heads)))
    graph = graph.prune(graph.heads)
    whole = Network(graph, build.arguments, build.auxiliary, ["data"], ["out_label"])
    return whole.with_graph(graph)


def rows(seed=0):
    return np.random.RandomState(seed).normal(size=(5, WIDTH)).astype(np.float32)


def name_of(graph, entry):
    return output_names(graph.nodes[entry[0]])[entry[1]]


def outputs(network, data, heads=None):
    """What our engine computes for the heads."""
    graph = network.graph
    names = [name_of(graph, head) for head in heads or graph.heads]
    return run_network(network, {"data": data}, names)


def mxnet_outputs(mx, network, data):
    symbol = mx.sym.load_json(network.graph.to_json())
    arrays = {name: mx.nd.array(array) for name, array in network.arguments.items()}
    arrays.update(data=mx.nd.array(data), out_label=mx.nd.zeros(len(data)))
    arrays = {name: arrays[name] for name in symbol.list_arguments()}
    auxiliary = {name: mx.nd.array(array) for name, array in network.auxiliary.items()}
    executor = bind(mx, symbol, arrays, auxiliary)
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def above(graph, entry):
    """What is left of a graph above an entry, whose place is taken by data."""
    nodes = [Node("null", "data")]
    for node in graph.nodes:
        inputs = tuple(
            (0, 0) if source == entry else (source[0] + 1, source[1]) for source in node.inputs
        )
        nodes.append(Node(node.operator, node.name, node.attributes, inputs))
    heads = [(head + 1, place) for head, place in graph.heads]
    return MxGraph(tuple(nodes), ()).prune(heads)


def drops(network, drop):
    """Yield n and the graph after every number of layers that can be dropped."""
    for number in range(1, 20):
        try:
            yield number, drop(number)
        except ModelError:
            return


def tops(network):
    graph = network.graph
    return drops(network, lambda n: edit.drop_top(graph, n, network.input_names))


def bottoms(network):
    graph = network.graph
    return drops(network, lambda n: edit.drop_bottom(graph, n, network.input_names, "data"))


def variables(graph):
    return {node.name for node in graph.nodes if node.is_variable}


def entry_by_name(graph, name):
    number = find_layer(graph, name)
    return number, output_names(graph.nodes[number]).index(name)


def test_random_networks_are_what_they_should_be():
    """Else the properties below would be of too little."""
    graphs = [random_network(seed).graph for seed in SEEDS]
    operators = [{node.operator for node in graph.nodes} for graph in graphs]
    for kind in ("SliceChannel", "BatchNorm", "Reshape", "elemwise_add", "SoftmaxOutput"):
        assert sum(kind in found for found in operators) > 8, kind
    assert sum(len(graph.heads) > 1 for graph in graphs) > 4
    assert sum("shared_weight" in variables(graph) for graph in graphs) > 8
    networks = [random_network(seed) for seed in SEEDS]
    assert sum(len([*tops(network)]) for network in networks) > 60
    assert sum(len([*bottoms(network)]) for network in networks) > 30


class TestTop:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_drop_and_put_back(self, seed):
        network = random_network(seed)
        graph = network.graph
        for _, dropped in tops(network):
            graph = edit.drop_top(graph, 1, network.input_names)
            assert graph == dropped == dropped.prune(dropped.heads)
            entry = entry_by_name(network.graph, name_of(dropped, dropped.heads[0]))
            upper = above(network.graph, entry)
            if variables(dropped) & variables(upper) - {"data"}:
                with pytest.raises(ModelError, match="has the name '.*' already"):
                    edit.add_top(dropped, upper)
            else:
                assert edit.add_top(dropped, upper) == network.graph

    @pytest.mark.parametrize("seed", SEEDS)
    def test_the_layer_left_puts_out_what_it_did(self, seed):
        network, data = random_network(seed), rows()
        for number, dropped in [*tops(network)][-1:]:
            smaller = network.with_graph(dropped)
            entry = entry_by_name(network.graph, name_of(dropped, dropped.heads[0]))
            (found,) = outputs(smaller, data)
            np.testing.assert_array_equal(found, outputs(network, data, [entry])[0])
            assert operators(smaller.graph) < operators(network.graph)
            assert len(dependent_names(network)) - len(dependent_names(smaller)) == number
            check_parameters(network, smaller)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_what_is_below_does_not_notice_what_is_put_on_top(self, seed):
        network, data = random_network(seed), rows()
        added = above(random_network(7).graph, (0, 0))
        added = renamed(added, "added_")
        output_layer = "out" in operators(network.graph)
        if len(network.graph.heads) > 1 or output_layer:
            with pytest.raises(ModelError, match="outputs|is an output layer"):
                edit.add_top(network.graph, added)
            return
        graph = edit.add_top(network.graph, added)
        larger = network.with_graph(graph)
        heads = [entry_by_name(graph, name_of(network.graph, head)) for head in network.graph.heads]
        below = larger.with_graph(graph.prune(heads))
        assert below.graph == network.graph
        np.testing.assert_array_equal(outputs(below, data), outputs(network, data))
        check_parameters(network, larger)
        assert {*network.parameters} == {*larger.parameters}


class TestBottom:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_drop_and_put_back(self, seed):
        network = random_network(seed)
        graph = network.graph
        for _, dropped in bottoms(network):
            graph, before = edit.drop_bottom(graph, 1, network.input_names, "data"), graph
            assert graph == dropped == dropped.prune(dropped.heads)
            lower = before.prune([bottom_of(before)])
            if variables(dropped) & variables(lower) - {"data"}:
                with pytest.raises(ModelError, match="has the name '.*' already"):
                    edit.add_bottom(dropped, lower)
            else:
                assert edit.add_bottom(dropped, lower) == before

    @pytest.mark.parametrize("seed", SEEDS)
    def test_features_instead_of_data_give_the_same_outputs(self, seed):
        """What the dropped layers would have put out is given as the data."""
        network, data = random_network(seed), rows()
        graph = network.graph
        for _, dropped in bottoms(network):
            smaller = network.with_graph(dropped)
            features = outputs(network.with_graph(graph.prune([bottom_of(graph)])), data)[0]
            for found, expected in zip(outputs(smaller, features), outputs(network, rows())):
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            check_parameters(network, smaller)
            assert not smaller.graph.nodes[find_input(dropped)].attributes
            graph, data = dropped, features


class TestBothEnds:
    @pytest.mark.parametrize("seed", SEEDS[:25])
    def test_numbers_of_mxnet(self, mx, seed):
        """What is dropped and put back gives what MXNet made of the network to begin with."""
        network, data = random_network(seed), rows()
        expected = mxnet_outputs(mx, network, data)
        for found, one in zip(outputs(network, data), expected):
            np.testing.assert_allclose(found, one, rtol=1e-4, atol=1e-5)
        for (_, dropped), end in [(one, "top") for one in tops(network)][-1:] + [
            (one, "bottom") for one in bottoms(network)
        ][:1]:
            if end == "top":
                entry = entry_by_name(network.graph, name_of(dropped, dropped.heads[0]))
                other, add = above(network.graph, entry), edit.add_top
            else:
                other = network.graph.prune([bottom_of(network.graph)])
                add = edit.add_bottom
            if not variables(dropped) & variables(other) - {"data"}:
                again = network.with_graph(add(dropped, other))
                assert {*again.parameters} == {*network.parameters}
                for found, one in zip(mxnet_outputs(mx, again, data), expected):
                    np.testing.assert_array_equal(found, one)


def operators(graph):
    return {node.name for node in graph.nodes if not node.is_variable}


def dependent_names(network):
    dependent = data_dependent_nodes(network.graph, network.input_names)
    return {network.graph.nodes[node_id].name for node_id in dependent}


def bottom_of(graph):
    """The only layer that reads the data."""
    data = find_input(graph)
    (found,) = [k for k, node in enumerate(graph.nodes) if (data, 0) in node.inputs]
    return found, 0


def renamed(graph, prefix):
    nodes = (Node(n.operator, prefix + n.name, n.attributes, n.inputs) for n in graph.nodes)
    return MxGraph(tuple(nodes), graph.heads[:1])


def check_parameters(before, after):
    """What belongs to no layer any more is gone, and the rest is what it was."""
    assert {*after.parameters} == {*before.parameters} & variables(after.graph)
    for kind in ("arguments", "auxiliary"):
        for name, array in getattr(after, kind).items():
            assert array is getattr(before, kind)[name]


def graph_of(*nodes, heads=None):
    """A graph by names: (operator, name, input names...), with the last for a head."""
    names = [name for _, name, *_ in nodes]
    made = []
    for operator, name, *inputs in nodes:
        attributes = {"num_outputs": "2"} if operator == "SliceChannel" else {}
        places = [one if isinstance(one, tuple) else (one, 0) for one in inputs]
        entries = tuple((names.index(of), place) for of, place in places)
        made.append(Node(operator, name, attributes, entries))
    entries = [one if isinstance(one, tuple) else (one, 0) for one in heads or names[-1:]]
    return MxGraph(tuple(made), tuple((names.index(of), place) for of, place in entries))


DATA = ("null", "data")
LABEL = ("null", "out_label")
CHAIN = graph_of(
    DATA,
    ("null", "fc_weight"),
    ("FullyConnected", "fc", "data", "fc_weight"),
    ("relu", "r", "fc"),
    LABEL,
    ("SoftmaxOutput", "out", "r", "out_label"),
)
CUT = graph_of(DATA, ("SliceChannel", "cut", "data"), ("add_n", "sum", ("cut", 0), ("cut", 1)))
SPLIT = graph_of(DATA, ("relu", "a", "data"), ("tanh", "b", "data"), ("add_n", "sum", "a", "b"))


class TestRefused:
    @pytest.mark.parametrize(
        ("graph", "number", "message"),
        [
            (SPLIT, 1, "1 layer from the top: layer 'sum' (add_n) joins 'a' (relu) and 'b' (tanh)"),
            (CUT, 1, "joins output 0 of 'cut' (SliceChannel) and output 1 of 'cut' (SliceChannel)"),
            (CHAIN, 3, "3 layers from the top: there is no layer below 'fc' (FullyConnected)"),
            (CHAIN, 99, "there is no layer below"),
            (graph_of(DATA), 1, "there is no layer below 'data'"),
            (graph_of(DATA, ("_zeros", "z")), 1, "there is no layer below 'z' (_zeros)"),
            (
                graph_of(*[DATA, ("relu", "a", "data"), ("tanh", "b", "a")], heads=["a", "b"]),
                1,
                "from the top: there are 2 outputs, 'a' (relu) and 'b' (tanh)",
            ),
            (
                graph_of(DATA, ("SliceChannel", "cut", "data"), heads=["cut", ("cut", 1)]),
                1,
                "outputs",
            ),
        ],
    )
    def test_drop_top(self, graph, number, message):
        with pytest.raises(ModelError) as caught:
            edit.drop_top(graph, number, ["data"])
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("graph", "number", "message"),
        [
            (SPLIT, 1, "'data' is read by 'a' (relu) and 'b' (tanh), so it is ambiguous"),
            (
                CUT,
                1,
                "'cut' (SliceChannel) has several outputs, in use: 0, 1; the data can replace",
            ),
            (
                CHAIN,
                3,
                "3 layers from the bottom: 'out' (SoftmaxOutput) is an output of the network",
            ),
            (graph_of(DATA), 1, "no layer reads 'data'"),
            (
                graph_of(DATA, ("relu", "a", "data"), ("tanh", "b", "a"), heads=["b", "data"]),
                1,
                "'data' is an output of the network",
            ),
            (
                graph_of(
                    DATA, ("null", "more"), ("add_n", "s", "data", "more"), ("relu", "a", "s")
                ),
                1,
                "layer 's' (add_n) joins the data with 'more', so it is ambiguous which of them",
            ),
            (
                graph_of(("null", "date"), ("relu", "a", "date")),
                1,
                "no input 'data'; nearest: date",
            ),
            (
                graph_of(("null", "x"), ("relu", "a", "x")),
                1,
                "the network has no input 'data'; inputs: x",
            ),
        ],
    )
    def test_drop_bottom(self, graph, number, message):
        with pytest.raises(ModelError) as caught:
            edit.drop_bottom(graph, number, ["data", "more"], "data")
        assert message in str(caught.value)

    @pytest.mark.parametrize("number", [0, -1, True, 1.0, "1", None])
    def test_numbers(self, number):
        for drop in (edit.drop_top, edit.drop_bottom):
            with pytest.raises(ValueError, match="must be an integer >= 1, got"):
                drop(CHAIN, number, ["data"], *(["data"] if drop is edit.drop_bottom else []))

    def test_two_variables_of_one_name(self):
        graph = MxGraph(
            (Node("null", "data"), Node("null", "data"), Node("add_n", "s", {}, ((0, 0), (1, 0)))),
            ((2, 0),),
        )
        with pytest.raises(ModelError, match="has 2 inputs named 'data'; rename them"):
            edit.drop_bottom(graph, 1, ["data"], "data")

    @pytest.mark.parametrize(
        "operator",
        ["SoftmaxOutput", "LinearRegressionOutput", "SVMOutput", "MakeLoss", "make_loss"],
    )
    def test_output_layers(self, operator):
        end = graph_of(DATA, ("null", "label"), (operator, "out", "data", "label"))
        layer = graph_of(("null", "new_data"), ("relu", "new", "new_data"))
        with pytest.raises(
            ModelError, match=f"layer 'out' \\({operator}\\) is an output layer.*drop"
        ):
            edit.add_top(end, layer)
        with pytest.raises(ModelError, match="to the bottom: layer 'out' .* is an output layer"):
            edit.add_bottom(layer, end, "new_data")

    @pytest.mark.parametrize(
        ("added", "message"),
        [
            (
                graph_of(DATA, ("tanh", "r", "data")),
                "has the name 'r' already; give the added layer",
            ),
            (
                graph_of(DATA, ("null", "fc_weight"), ("FullyConnected", "n", "data", "fc_weight")),
                "has the name 'fc_weight' already",
            ),
            (graph_of(DATA, ("tanh", "cut_output1", "data")), "has the name 'cut_output1' already"),
            (
                graph_of(DATA, ("SliceChannel", "halves", "data"), heads=["halves", ("halves", 1)]),
                "there are 2 outputs, output 0 of 'halves' (SliceChannel) and output 1 of 'halves'",
            ),
            (
                graph_of(("null", "a"), ("null", "b"), ("add_n", "s", "a", "b")),
                "ambiguous which input of the added 's' (add_n) is the data: 'a' or 'b'; name that "
                "one 'data'",
            ),
            (graph_of(("null", "label"), ("relu", "n", "label")), "must have an input, got 'n'"),
            (graph_of(("_zeros", "zeros")), "must have an input, got 'zeros' (_zeros)"),
            (graph_of(("null", "x")), "must have an input, got no layer"),
        ],
    )
    def test_what_is_added(self, added, message):
        graph = graph_of(
            DATA,
            ("null", "fc_weight"),
            ("FullyConnected", "fc", "data", "fc_weight"),
            ("SliceChannel", "cut", "fc"),
            ("relu", "r", ("cut", 1)),
        )
        for add in (edit.add_top, edit.add_bottom):
            with pytest.raises(ModelError) as caught:
                add(graph, added)
            assert message in str(caught.value)

    def test_top_of_several_outputs(self):
        graph = graph_of(DATA, ("relu", "a", "data"), ("tanh", "b", "data"), heads=["a", "b"])
        with pytest.raises(ModelError, match="there are 2 outputs, 'a' \\(relu\\) and 'b'"):
            edit.add_top(graph, graph_of(("null", "x"), ("relu", "n", "x")))


class TestInput:
    """Which variable of added layers stands for what they are put on."""

    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (lambda s: s.FullyConnected(num_hidden=2, name="fc"), "fc_data"),
            (lambda s: s.FullyConnected(s.relu(s.var("x")), num_hidden=2), "x"),
            (lambda s: s.Embedding(input_dim=2, output_dim=2, name="e"), "e_data"),
            (lambda s: s.BatchNorm(name="bn"), "bn_data"),
            (lambda s: s.LeakyReLU(act_type="prelu", name="p"), "p_data"),
            (lambda s: s.SoftmaxOutput(name="softmax"), "softmax_data"),
            (lambda s: s.softmax_cross_entropy(s.var("scores"), s.var("my_label")), "scores"),
            (lambda s: s.broadcast_mul(s.var("data"), s.var("scale")), "data"),
            (lambda s: s.broadcast_mul(s.var("x"), s.var("scale", init="ones")), "x"),
            (lambda s: s.FullyConnected(s.var("x"), s.var("w") * 2, num_hidden=2), "x"),
            (lambda s: s.Concat(s.var("x") + 1, s.var("x") * 2), None),
        ],
    )
    def test_of_symbols(self, mx, make, expected):
        graph = MxGraph.from_json(make(mx.sym).tojson())
        if expected is None:
            with pytest.raises(ModelError, match="is the data: 'x' or 'x'"):
                find_input(graph)
        else:
            assert graph.nodes[find_input(graph)].name == expected

    def test_hints_of_new_data_stay_and_of_old_data_go(self):
        old = MxGraph.from_json(
            CHAIN.to_json().replace('"attrs": {}', '"attrs": {"__shape__": "(0, 3)"}', 1)
        )
        assert old.nodes[0].attributes
        layer = MxGraph(
            (Node("null", "x", {"__shape__": "(0, 9)"}), Node("relu", "n", {}, ((0, 0),))),
            ((1, 0),),
        )
        found = edit.add_bottom(old, layer)
        assert found.nodes[0] == Node("null", "data", {"__shape__": "(0, 9)"})
        assert [node.name for node in found.nodes if node.name == "data"] == ["data"]

    def test_data_that_are_an_output(self):
        """Whoever reads the data reads what is put in their place."""
        graph = graph_of(DATA, ("relu", "a", "data"), heads=["a", "data"])
        found = edit.add_bottom(graph, graph_of(DATA, ("tanh", "n", "data")))
        assert [found.nodes[head].name for head, _ in found.heads] == ["a", "n"]


class TestLookUp:
    def test_parameters(self):
        graph = graph_of(
            DATA,
            ("null", "w"),
            ("Reshape", "shaped", "w"),
            ("null", "b"),
            ("FullyConnected", "fc1", "data", "shaped", "b"),
            ("FullyConnected", "fc10", "fc1", "shaped"),
            LABEL,
            ("SoftmaxOutput", "out", "fc10", "out_label"),
        )
        dependent = data_dependent_nodes(graph, ["data"])
        found = {
            name: find_parameters(graph, find_layer(graph, name), dependent)
            for name in ("fc1", "fc10", "shaped", "out")
        }
        assert found == {"fc1": ["w", "b"], "fc10": ["w"], "shaped": ["w"], "out": []}

    @pytest.mark.parametrize("seed", SEEDS)
    def test_every_parameter_belongs_to_a_data_dependent_layer(self, seed):
        network = random_network(seed)
        dependent = data_dependent_nodes(network.graph, network.input_names)
        layers = [k for k in dependent if not network.graph.nodes[k].is_variable]
        found = {name for k in layers for name in find_parameters(network.graph, k, dependent)}
        assert found == {*network.parameters}

    def test_deep_sharing_is_quick(self):
        """As many ways lead to the weight as there are subsets of the layers."""
        nodes = [DATA, ("null", "w")]
        nodes += [("add_n", f"w{k}", nodes[-1][1], nodes[-1][1]) for k in range(1)]
        for k in range(1, 60):
            nodes.append(("add_n", f"w{k}", f"w{k - 1}", f"w{k - 1}"))
        graph = graph_of(*nodes, ("FullyConnected", "fc", "data", "w59"))
        assert find_parameters(graph, len(nodes), data_dependent_nodes(graph, ["data"])) == ["w"]

    def test_names(self):
        assert find_layer(CUT, "cut") == find_layer(CUT, "cut_output1") == 1
        assert find_layer(CHAIN, "fc_output") == find_layer(CHAIN, "fc")
        with pytest.raises(ModelError, match="no layer 'fx'; nearest: fc"):
            find_layer(CHAIN, "fx")
        with pytest.raises(ModelError, match="no layer 'data'; layers: fc, r, out|nearest"):
            find_layer(CHAIN, "data")
        with pytest.raises(TypeError, match="a name must be a string, got int: 3"):
            find_layer(CHAIN, 3)
        twice = MxGraph(
            (Node("null", "x"), *[Node("relu", "r", {}, ((k, 0),)) for k in (0, 1)]), ((2, 0),)
        )
        with pytest.raises(ModelError, match="has 2 layers named 'r'; rename them"):
            find_layer(twice, "r")
        assert edit.drop_top(twice, 1, ["x"]) == MxGraph(twice.nodes[:2], ((1, 0),))


def test_deep_graphs():
    """Of more layers than Python allows calls."""
    nodes = [Node("null", "data"), *[Node("relu", f"r{k}", {}, ((k, 0),)) for k in range(3000)]]
    graph = MxGraph(tuple(nodes), ((3000, 0),))
    assert len(edit.drop_top(graph, 2000, ["data"]).nodes) == 1001
    assert len(edit.add_top(graph, renamed(graph, "n")).nodes) == 6001
