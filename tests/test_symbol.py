"""Graphs of every version of MXNet: read as MXNet reads them, and refused where they are broken."""

import copy
import ctypes
import json
import pickle
import random

import pytest

from xfer.checkpoint.legacy import upgrade
from xfer.checkpoint.network import Network
from xfer.checkpoint.symbol import MxGraph, Node

CHECKPOINTS = ["mnist_lenet", "newsgroups_cnn", "cifar_resnet20_v1", "cifar_resnet20_v2"]


def variable(name, **fields):
    return {"op": "null", "name": name, "inputs": [], **fields}


def operator(kind, name, *inputs, **fields):
    inputs = [[k, 0] if isinstance(k, int) else k for k in inputs]
    return {"op": kind, "name": name, "inputs": inputs, **fields}


def symbol(*nodes, version=None, heads=None, **fields):
    """Return a graph as MXNet writes it, with the last node for a head."""
    graph = {
        "nodes": list(nodes),
        "arg_nodes": [k for k, node in enumerate(nodes) if node["op"] == "null"],
        "heads": heads or [[len(nodes) - 1, 0]],
        **fields,
    }
    if version is not None:
        graph["attrs"] = {"mxnet_version": ["int", version]}
    return graph


def read(graph):
    return MxGraph.from_json(json.dumps(graph))


DATA = variable("data")

LEGACY = {
    "0.8: running means are not written": symbol(
        variable("data", param={}, backward_source_id=-1),
        variable("bn_gamma", param={}),
        variable("bn_beta", param={}),
        operator("BatchNorm", "bn", 0, 1, 2, param={"eps": "0.001"}, backward_source_id=-1),
        operator("Flatten", "flat", 3, param={}),
    ),
    "0.8: running means by other names": symbol(
        DATA,
        operator("BatchNorm_v1", "", 0),
        operator("IdentityAttachKLSparseReg", "sparse", 1, param={"penalty": "0.001"}),
    ),
    "0.8: a shape said of an operator": symbol(
        DATA, operator("BatchNorm", "bn", 0, attr={"__shape__": "(3,)", "ctx_group": "a"})
    ),
    "0.8: param and attr": symbol(
        variable("data", param={}, attr={"__shape__": "(0, 3)", "lr_mult": "2"}),
        variable("fc_weight", attr={"__init__": "zeros", "__dtype__": "0", "wd_mult": "0"}),
        variable("fc_bias", attr={"mood": "angry"}),
        operator(
            "FullyConnected",
            "fc",
            *(0, 1, 2),
            param={"num_hidden": "3", "no_bias": "False"},
            attr={"num_hidden": "4", "weight_lr_mult": "2", "ctx_group": "b", "__mood__": "angry"},
        ),
    ),
    "0.8: where training keys are not known": symbol(
        DATA, operator("relu", "r", 0, attr={"lr_mult": "2", "x_wd_mult": "1", "mirror_stage": "1"})
    ),
    "0.8: old names": symbol(
        DATA,
        operator("_Plus", "plus", 0, 0),
        operator("_MulScalar", "double", 1, param={"scalar": "2"}),
        operator("ElementWiseSum", "total", 0, 1, 2, param={"num_args": "3"}),
        operator("sum_axis", "summed", 3, param={"axis": "2"}),
        variable("softmax_label"),
        operator("Softmax", "softmax", 4, 5),
    ),
    "0.9.4: the axis of argmax": symbol(
        DATA,
        operator("argmax", "all", 0, attr={"axis": "-1"}),
        operator("argmin", "one", 0, attr={"axis": "1", "keepdims": "True"}),
        operator("sum", "last", 0, attr={"axis": "-1"}),
        version=904,
        heads=[[1, 0], [2, 0], [3, 0]],
    ),
    "0.9.5: the axis of argmax": symbol(
        DATA, operator("argmax", "last", 0, attr={"axis": "-1"}), version=905
    ),
    "0.9.0: all variables are written": symbol(
        DATA,
        *(variable(f"bn_{k}", attr={"eps": "2e-5"}) for k in ("gamma", "beta", "mean", "var")),
        operator("BatchNorm", "bn", 0, 1, 2, [3, 0], [4, 0, 1], attr={"eps": "2e-5"}),
        version=900,
        node_row_ptr=[0, 1, 2, 3, 4, 5, 8],
    ),
    "1.9: heads and inputs with versions": symbol(
        DATA,
        operator("SliceChannel", "halves", [0, 0, 0], attrs={"num_outputs": "2"}),
        operator("elemwise_sub", "difference", [1, 0, 0], [1, 1, 0]),
        operator("relu", "unused", 2),
        heads=[[2, 0, 0], [1, 1, 0], [2, 0, 0], [0, 0, 0]],
        version=10901,
    ),
    "2.0: attributes of the profiler": symbol(
        variable("data", attrs={"__profiler_scope__": "<unk>:", "__layout__": "NCHW"}),
        operator("relu", "r", 0, attrs={"__profiler_scope__": "net:"}),
        variable("unused"),
        heads=[[1, 0, 0]],
        version=20000,
    ),
    "nodes of one name": symbol(DATA, operator("relu", "data", 0), operator("relu", "data", 1)),
    "a network of one variable": symbol(DATA),
}


def as_mxnet_reads(mx, text):
    graph = MxGraph.from_json(mx.sym.load_json(text).tojson())
    return graph.prune(graph.heads)


def as_0_8_wrote_it(graph):
    """Take from a graph of today what MXNet 0.8 did not write."""
    places, nodes = {}, []
    for number, node in enumerate(graph["nodes"]):
        if not node["name"].endswith(("_moving_mean", "_moving_var")):
            places[number] = len(nodes)
            inputs = [[places[k], output] for k, output, _ in node["inputs"] if k in places]
            fields = {"param": node.get("attrs", {}), "backward_source_id": -1}
            nodes.append({"op": node["op"], "name": node["name"], "inputs": inputs, **fields})
    return symbol(*nodes)


class TestAsMXNetReads:
    @pytest.mark.parametrize("name", CHECKPOINTS)
    def test_real_checkpoints(self, mx, shared, name):
        text = (shared / "models" / f"{name}-symbol.json").read_text()
        graph = MxGraph.from_json(text)
        assert graph.prune(graph.heads) == as_mxnet_reads(mx, text)
        assert MxGraph.from_json(text.encode()) == graph

    @pytest.mark.parametrize("case", LEGACY)
    def test_legacy_graphs(self, mx, case):
        graph = read(LEGACY[case])
        assert graph.prune(graph.heads) == as_mxnet_reads(mx, json.dumps(LEGACY[case]))

    @pytest.mark.parametrize("version", [None, 800, 904, 10000, 10901, 20000])
    def test_a_version_is_needed_for_the_past_alone(self, mx, version):
        """A graph of today, all written, reads the same under the number of any version."""
        data = mx.sym.var("data", shape=(0, 2, 6, 6), dtype="float32", lr_mult=2)
        with mx.AttrScope(ctx_group="first", __mood__="angry"):
            norm = mx.sym.BatchNorm(mx.sym.Convolution(data, kernel=(3, 3), num_filter=4))
            active = mx.sym.LeakyReLU(norm, act_type="prelu")
        graph = json.loads(mx.sym.SoftmaxOutput(mx.sym.Pooling(active, global_pool=True)).tojson())
        today = read(graph)
        del graph["attrs"]
        if version is not None:
            graph["attrs"] = {"mxnet_version": ["int", version]}
        assert read(graph) == today
        assert today == as_mxnet_reads(mx, json.dumps(graph))
        assert dict(today.nodes[0].attributes) == {"__shape__": "(0, 2, 6, 6)", "__dtype__": "0"}

    def test_todays_graph_as_0_8_wrote_it(self, mx):
        data = mx.sym.var("data", shape=(0, 2, 6, 6))
        first = mx.sym.BatchNorm(mx.sym.Convolution(data, kernel=(3, 3), num_filter=4), name="a")
        second = mx.sym.BatchNorm(mx.sym.Activation(first, act_type="relu"), name="b")
        network = mx.sym.SoftmaxOutput(mx.sym.Flatten(mx.sym.Concat(first, second)) * 2 + 1)
        today = json.loads(network.tojson())
        text = json.dumps(as_0_8_wrote_it(today))
        assert "moving_mean" not in text and "attrs" not in text
        assert MxGraph.from_json(text) == as_mxnet_reads(mx, text) == read(today)

    def test_control_flow(self, mx):
        def step(data, state):
            return data + state, data * state

        outputs, states = mx.sym.contrib.foreach(step, mx.sym.var("data"), mx.sym.var("begin"))
        text = mx.sym.Group([outputs, states]).tojson()
        graph = MxGraph.from_json(text)
        assert "_foreach" in [node.operator for node in graph.nodes]
        assert graph.prune(graph.heads) == as_mxnet_reads(mx, text)

    @pytest.mark.parametrize("name", ["größe", "a\x01b", "tab\tand\nline", 'quote"', "back\\slash"])
    def test_names_are_text(self, mx, name):
        text = mx.sym.relu(mx.sym.var(name)).tojson()
        assert MxGraph.from_json(text).nodes[0].name == name
        assert MxGraph.from_json(text.encode()).nodes[0].name == name

    def test_operators_by_their_own_names(self, mx):
        """Whatever MXNet 1.9 calls an operator, it is one operator; prefixes aside (see there)."""
        from mxnet.base import _LIB, check_call

        number, names = ctypes.c_uint(), ctypes.POINTER(ctypes.c_char_p)()
        check_call(_LIB.MXListAllOpNames(ctypes.byref(number), ctypes.byref(names)))
        expected, found = {}, {}
        for name in names[: number.value]:
            handle, own = ctypes.c_void_p(), ctypes.c_char_p()
            check_call(_LIB.NNGetOpHandle(name, ctypes.byref(handle)))
            check_call(_LIB.MXSymbolGetAtomicSymbolName(handle, ctypes.byref(own)))
            if not name.startswith((b"_sparse_", b"_np")):
                expected[name.decode()] = own.value.decode()
        for name in expected:
            found[name] = read(symbol(operator(name, "n"), version=10901)).nodes[0].operator
        assert found == expected


def hints(symbol):
    """What only training needs to know of each node, but for what MXNet adds of its own."""
    others = ("__init__", "__shape__", "__dtype__")
    found = {
        name: {k: v for k, v in attributes.items() if k[:2] == k[-2:] == "__" and k not in others}
        for name, attributes in symbol.attr_dict().items()
    }
    return {name: attributes for name, attributes in found.items() if attributes}


def all_of(graph):
    """What equality looks at, and the hints that it does not."""
    return graph, [dict(node.training) for node in graph.nodes]


class TestWritten:
    """MXNet reads what is written here as it reads the file that it came from."""

    @pytest.mark.parametrize("name", CHECKPOINTS)
    def test_real_checkpoints(self, mx, shared, name):
        text = (shared / "models" / f"{name}-symbol.json").read_text()
        self.check(mx, text, mx.sym.load_json(text))

    @pytest.mark.parametrize("case", LEGACY)
    def test_legacy_graphs(self, mx, case):
        text = json.dumps(LEGACY[case])
        self.check(mx, text, mx.sym.load_json(text))

    def check(self, mx, text, expected):
        graph = MxGraph.from_json(text)
        assert all_of(MxGraph.from_json(graph.to_json())) == all_of(graph)
        found = mx.sym.load_json(graph.to_json())
        assert found.list_arguments() == expected.list_arguments()
        assert found.list_auxiliary_states() == expected.list_auxiliary_states()
        assert found.list_outputs() == expected.list_outputs()
        assert hints(found) == hints(expected)
        again = MxGraph.from_json(found.tojson())
        assert again.prune(again.heads) == as_mxnet_reads(mx, text)

    def test_numbers(self, mx):
        data = mx.sym.var("data")
        halves = mx.sym.SliceChannel(mx.sym.tanh(data), num_outputs=2)
        symbol = mx.sym.Group([halves[1] * 2, mx.sym.sum(halves[0] + halves[1], axis=1), halves[0]])
        again = mx.sym.load_json(MxGraph.from_json(symbol.tojson()).to_json())
        values = mx.nd.random.uniform(shape=(3, 4))
        expected = symbol.eval(data=values)
        for found, one in zip(again.eval(data=values), expected, strict=True):
            assert found.asnumpy().tolist() == one.asnumpy().tolist()

    def test_hints_for_training(self, mx):
        weight = mx.sym.var("w", init=mx.init.Constant(3), lr_mult=0.5, wd_mult=0, shape=(2, 0))
        with mx.AttrScope(ctx_group="first", __mood__="angry"):
            symbol = mx.sym.FullyConnected(mx.sym.var("data"), weight, num_hidden=2, name="fc")
        graph = MxGraph.from_json(symbol.tojson())
        told = {node.name: node.training for node in graph.nodes}
        assert told["w"] == {
            "__init__": '["constant", {"value": 3}]',
            "__lr_mult__": "0.5",
            "__wd_mult__": "0",
        }
        assert told["fc"] == {"__ctx_group__": "first", "__mood__": "angry"}
        for same in (graph.prune(graph.heads), pickle.loads(pickle.dumps(graph))):
            assert all_of(same) == all_of(graph)
        attributes = mx.sym.load_json(graph.to_json()).attr_dict()
        assert attributes["w"] == symbol.attr_dict()["w"]

    def test_old_hints_by_their_names_of_today(self):
        graph = read(LEGACY["0.8: param and attr"])
        assert [dict(node.training) for node in graph.nodes] == [
            {"__lr_mult__": "2"},
            {"__init__": "zeros", "__wd_mult__": "0", "__lr_mult__": "2"},
            {},
            {"__mood__": "angry", "__ctx_group__": "b"},
        ]

    def test_hints_make_no_difference(self):
        node = Node("null", "w", {}, (), {"__lr_mult__": "2"})
        assert node == Node("null", "w")
        assert hash(node) == hash(Node("null", "w"))
        with pytest.raises(TypeError, match="does not support item assignment"):
            node.training["a"] = "1"

    def test_loops_keep_their_bodies(self, mx):
        outputs, _ = mx.sym.contrib.foreach(
            lambda data, state: (data + state, state), mx.sym.var("data"), mx.sym.var("begin")
        )
        graph = MxGraph.from_json(outputs.tojson())
        again = mx.sym.load_json(graph.to_json())
        shapes = {"data": (5, 2), "begin": (2,)}
        assert again.infer_shape(**shapes)[1] == outputs.infer_shape(**shapes)[1]
        assert MxGraph.from_json(again.tojson()) == graph

    @pytest.mark.parametrize(
        "name", ["größe", "😀", "a\x01b\b", "tab\t\n", 'quote"', "back\\u0041"]
    )
    def test_names_are_text(self, mx, name):
        graph = MxGraph((Node("null", name), Node("relu", "r", {}, ((0, 0),))), ((1, 0),))
        assert MxGraph.from_json(graph.to_json()) == graph
        assert mx.sym.load_json(graph.to_json()).list_arguments() == [name]
        state, _ = Network(graph, {}, {}, [name], []).to_state()
        assert Network.from_state(json.loads(json.dumps(state)), {}).graph == graph


class TestNetwork:
    """Another graph in place of a network's own."""

    def test_inputs_and_parameters(self):
        names = ("data", "w", "moving", "state", "dropped")
        old = MxGraph(tuple(Node("null", name) for name in names), ((0, 0),))
        arguments, auxiliary = {"w": [1], "dropped": [2]}, {"moving": [3]}
        network = Network(old, arguments, auxiliary, ["data", "more"], ["state"])
        new = graph_reading("w", "data", "moving", "state", "new", "new_label", unread="unread")
        found = network.with_graph(new)
        assert found.graph == new
        assert (found.arguments, found.auxiliary) == ({"w": [1]}, {"moving": [3]})
        assert found.input_names == ["data"]
        assert sorted(found.idle_names) == ["new_label", "state", "unread"]
        assert network.arguments == {"w": [1], "dropped": [2]}

    def test_other_networks_stay_what_they_were(self):
        """Saved files keep checksums of graphs, in which hints for training have no part."""
        plain = read(symbol(DATA, operator("relu", "r", 0)))
        told = read(symbol(variable("data", attrs={"__lr_mult__": "1"}), operator("relu", "r", 0)))
        networks = [Network(graph, {}, {}, ["data"], []) for graph in (plain, told)]
        assert networks[0].fingerprint(["r"]) == networks[1].fingerprint(["r"])


def graph_reading(*names, unread):
    """A graph with an operator that reads variables, and another that a label has no say in."""
    nodes = [*(Node("null", name) for name in names), Node("null", unread)]
    nodes.append(Node("add_n", "sum", {}, tuple((k, 0) for k in range(len(names)))))
    nodes.append(Node("SoftmaxOutput", "out", {}, ((len(names) + 1, 0), (len(names), 0))))
    return MxGraph(tuple(nodes), ((len(nodes) - 1, 0),))


class TestForm:
    """What MXNet makes of old graphs, said where there is no MXNet to compare with."""

    def test_missing_variables(self):
        graph = read(LEGACY["0.8: running means are not written"])
        names = ["data", "bn_gamma", "bn_beta", "bn_moving_mean", "bn_moving_var", "bn", "flat"]
        assert [node.name for node in graph.nodes] == names
        assert graph.nodes[5] == Node(
            "BatchNorm", "bn", {"eps": "0.001"}, tuple((k, 0) for k in range(5))
        )
        assert graph.nodes[6].inputs == ((5, 0),)
        assert graph.heads == ((6, 0),)
        assert graph.nodes[3].is_variable and not graph.nodes[5].is_variable

    def test_nothing_is_missing_since(self):
        graph = read(symbol(DATA, operator("BatchNorm", "bn", 0), version=900))
        assert graph.nodes[1].inputs == ((0, 0),)

    def test_outputs(self):
        graph = read(LEGACY["1.9: heads and inputs with versions"])
        assert graph.nodes[2].inputs == ((1, 0), (1, 1))
        assert graph.heads == ((2, 0), (1, 1), (2, 0), (0, 0))

    def test_a_node_without_a_name_lends_none(self):
        graph = read(symbol(DATA, operator("BatchNorm", "", 0)))
        names = ["data", "gamma", "beta", "moving_mean", "moving_var", ""]
        assert [node.name for node in graph.nodes] == names

    def test_attributes(self):
        graph = read(LEGACY["0.8: param and attr"])
        assert [dict(node.attributes) for node in graph.nodes] == [
            {"__shape__": "(0, 3)"},
            {"__dtype__": "0"},
            {},
            {"num_hidden": "4", "no_bias": "False"},
        ]

    @pytest.mark.parametrize("key", ["ctx_group", "force_mirroring", "mirror_stage", "wd_mult"])
    def test_training_keys(self, key):
        attributes = {key: "1", f"weight_{key}": "1", f"__{key}__": "1", f"{key}s": "kept"}
        graph = read(symbol(DATA, operator("relu", "r", 0, attr=attributes)))
        assert graph.nodes[1].attributes == {f"{key}s": "kept"}

    def test_axis(self):
        graph = read(LEGACY["0.9.4: the axis of argmax"])
        assert [node.attributes.get("axis") for node in graph.nodes[1:]] == [None, "1", "-1"]
        assert read(LEGACY["0.9.5: the axis of argmax"]).nodes[1].attributes == {"axis": "-1"}

    def test_old_names(self):
        graph = read(LEGACY["0.8: old names"])
        operators = [node.operator for node in graph.nodes if not node.is_variable]
        assert operators == ["elemwise_add", "_mul_scalar", "add_n", "sum", "SoftmaxOutput"]

    def test_what_is_not_read_is_not_checked(self):
        graph = symbol(DATA, version=10901, node_row_ptr="?", extra=1)
        graph["arg_nodes"] = [7]
        graph["attrs"]["is_np_shape"] = ["int", 1]
        graph["nodes"][0] = variable("data", subgraphs=[{"nodes": 3}], control_deps="?")
        assert read(graph) == read(symbol(DATA))

    def test_the_file_is_left_alone(self):
        graph = LEGACY["0.9.4: the axis of argmax"]
        before = copy.deepcopy(graph)
        upgrade(graph)
        assert graph == before


class TestGraph:
    def test_equality(self):
        graph = read(LEGACY["1.9: heads and inputs with versions"])
        assert graph == read(LEGACY["1.9: heads and inputs with versions"])
        assert hash(graph) == hash(copy.deepcopy(graph))
        changes = {"operator": "tanh", "name": "other", "attributes": {"a": "1"}, "inputs": ()}
        for key, value in changes.items():
            node = graph.nodes[2]
            fields = [value if k == key else getattr(node, k) for k in changes]
            assert MxGraph((*graph.nodes[:2], Node(*fields), graph.nodes[3]), graph.heads) != graph
        assert MxGraph(graph.nodes, ((2, 1),)) != graph

    def test_travels_and_does_not_change(self):
        graph = read(LEGACY["0.8: param and attr"])
        assert pickle.loads(pickle.dumps(graph)) == graph == copy.deepcopy(graph)
        with pytest.raises(TypeError, match="does not support item assignment"):
            graph.nodes[0].attributes["a"] = "1"
        attributes = {"a": "1"}
        node = Node("relu", "r", attributes)
        attributes["a"] = "2"
        assert node.attributes == {"a": "1"}

    def test_repr(self):
        graph = read(LEGACY["0.8: param and attr"])
        assert repr(graph) == "MxGraph(1 operators, 3 variables)"

    def test_prune(self):
        graph = read(LEGACY["1.9: heads and inputs with versions"])
        assert [node.name for node in graph.prune([(2, 0)]).nodes] == [
            "data",
            "halves",
            "difference",
        ]
        cut = graph.prune(head for head in [(0, 0), (1, 1)])
        assert cut == MxGraph(graph.nodes[:2], ((0, 0), (1, 1)))
        assert graph.prune([]) == MxGraph((), ())

    @pytest.mark.parametrize("head", [-1, 4])
    def test_prune_at_no_node(self, head):
        graph = read(LEGACY["1.9: heads and inputs with versions"])
        with pytest.raises(ValueError, match=f"one of the 4 nodes, found node {head}"):
            graph.prune([(0, 0), (head, 0)])

    @pytest.mark.parametrize("seed", range(20))
    def test_prune_orders_by_content(self, seed):
        """The same network in any order of its nodes, with others between them, is one graph."""
        rng = random.Random(seed)
        inputs = [()] + [tuple(rng.choices(range(k), k=rng.randint(0, 3))) for k in range(1, 30)]
        inputs.append(tuple(range(30)))

        def shuffled():
            nodes, places, waiting = [], {}, list(range(31))
            while waiting:
                ready = [k for k in waiting if all(source in places for source in inputs[k])]
                number = rng.choice(ready)
                waiting.remove(number)
                nodes.extend(Node("null", f"unused{k}") for k in range(rng.randint(0, 1)))
                places[number] = len(nodes)
                sources = tuple((places[source], 0) for source in inputs[number])
                nodes.append(Node("op" if sources else "null", f"n{number}", {}, sources))
            return MxGraph(tuple(nodes), ((places[30], 0), (places[3], 0)))

        first, second = shuffled(), shuffled()
        assert first != second
        assert first.prune(first.heads) == second.prune(second.heads)
        pruned = first.prune(first.heads)
        assert pruned.prune(pruned.heads) == pruned
        assert len(pruned.nodes) == 31

    def test_deep_graphs(self):
        nodes = [DATA, *(operator("relu", f"relu{k}", k) for k in range(100_000))]
        graph = read(symbol(*nodes))
        assert graph.prune(graph.heads) == graph

    def test_wide_graphs(self):
        """Slower than linear would take minutes here."""
        number = 50_000
        nodes = [Node("null", f"v{k}") for k in range(number)]
        nodes.append(Node("add_n", "sum", {}, tuple((k, 0) for k in range(number))))
        nodes.append(Node("add_n", "same", {}, ((number, 0),) * number))
        graph = MxGraph(tuple(nodes), ((number + 1, 0),) * number)
        assert graph.prune(graph.heads) == graph


def broken(**changes):
    """Return a graph of two nodes with one field of the second changed, or deleted for `...`."""
    node = {**operator("relu", "r", 0), **changes}
    return {
        "nodes": [DATA, {key: value for key, value in node.items() if value is not ...}],
        "heads": [[1, 0]],
    }


ENTRY = "should be \\[node, output\\] or \\[node, output, version\\], found"
BROKEN = {
    "nothing": ("", "the graph is not JSON: Expecting value"),
    "half": ('{"nodes": [', "the graph is not JSON"),
    "no text": (b"\xff\xfe\xfa", "the graph is not JSON: .*decode"),
    "no bytes": (None, "the graph is not JSON: .*NoneType"),
    "deep": ("[" * 100_000, "the graph is not JSON"),
    "a long number": ('{"nodes": [' + "1" * 5000 + "]}", "the graph is not JSON|found 111"),
    "a list": ([], "the graph should be an object, found \\[\\]"),
    "no nodes": ({"heads": []}, "the graph should have 'nodes', found only \\['heads'\\]"),
    "nodes: object": ({"nodes": {}}, "the graph: 'nodes' should be a list, found {}"),
    "no heads": ({"nodes": []}, "the graph should have 'heads', found only \\['nodes'\\]"),
    "empty": ({"nodes": [], "heads": []}, "the graph should have a head"),
    "node: list": ({"nodes": [[]]}, "node 0 should be an object, found \\[\\]"),
    "node: deep": ({"nodes": [[[[[[[[[1]]]]]]]]]}, "node 0 should be an object"),
    "no name": (broken(name=...), "node 1 should have 'name', found only \\['op', 'inputs'\\]"),
    "many keys": ({"nodes": [{f"{k:050}": 0 for k in range(99)}]}, "node 0 should have 'name'"),
    "name: null": (broken(name=None), "node 1: 'name' should be a string, found None"),
    "no operator": (broken(op=...), "node 1 \\('r'\\) should have 'op', found only"),
    "operator: number": (broken(op=3), "node 1 \\('r'\\): 'op' should be a string, found 3"),
    "no inputs": (broken(inputs=...), "node 1 \\('r'\\) should have 'inputs', found only"),
    "inputs: object": (broken(inputs={}), "node 1 \\('r'\\): 'inputs' should be a list, found {}"),
    "inputs: numbers": (broken(inputs=[0]), f"node 1 \\('r'\\): input 0 {ENTRY} 0"),
    "input: short": (broken(inputs=[[0, 0], [0]]), f"'r'\\): input 1 {ENTRY} \\[0\\]"),
    "input: long": (broken(inputs=[[0, 0, 0, 0]]), f"{ENTRY} \\[0, 0, 0, 0\\]"),
    "input: negative": (broken(inputs=[[-1, 0]]), f"{ENTRY} \\[-1, 0\\]"),
    "input: true": (broken(inputs=[[False, 0]]), f"{ENTRY} \\[False, 0\\]"),
    "input: float": (broken(inputs=[[0, 0.0]]), f"{ENTRY} \\[0, 0.0\\]"),
    "input: text": (broken(inputs=["00"]), f"{ENTRY} '00'"),
    "version: negative": (broken(inputs=[[0, 0, -1]]), f"{ENTRY} \\[0, 0, -1\\]"),
    "input: itself": (
        broken(inputs=[[0, 0], [1, 0]]),
        "node 1 \\('r'\\): input 1 should be one of the first 1 nodes, found node 1",
    ),
    "input: far": (broken(inputs=[[10**30, 0]]), "first 1 nodes, found node 1000"),
    "a variable with inputs": (
        broken(op="null"),
        "node 1 \\('r'\\): a variable should have no inputs, found 1",
    ),
    "attributes: list": (broken(attrs=[]), "node 1 \\('r'\\): 'attrs' should be an object, found"),
    "attributes: null": (broken(param=None), "'param' should be an object, found None"),
    "attribute: number": (
        broken(attr={"axis": 1}),
        "node 1 \\('r'\\): attribute 'axis' should be a string, found 1",
    ),
    "attribute: long": (broken(attr={"a" * 10_000: []}), "attribute 'a+\\.\\.\\.a+' should be a"),
    "heads: number": ({"nodes": [DATA], "heads": 0}, "the graph: 'heads' should be a list, found"),
    "head: number": ({"nodes": [DATA], "heads": [0]}, f"head 0 {ENTRY} 0"),
    "head: far": (
        {"nodes": [DATA], "heads": [[0, 0], [1, 0]]},
        "head 1 should be one of the first 1 nodes, found node 1",
    ),
    "attrs: list": (symbol(DATA, attrs=[]), "the graph: 'attrs' should be an object, found"),
    "version: number": (symbol(DATA, attrs={"mxnet_version": 1}), "'mxnet_version' should be a"),
    "version: true": (
        symbol(DATA, version=True),
        "mxnet_version of the graph should be \\[\"int\", number\\], found \\['int', True\\]",
    ),
    "version: text": (symbol(DATA, version="1"), "found \\['int', '1'\\]"),
    "version: alone": (symbol(DATA, attrs={"mxnet_version": ["int"]}), "found \\['int'\\]"),
}


class TestBroken:
    @pytest.mark.parametrize("case", BROKEN)
    def test_is_refused(self, case):
        graph, message = BROKEN[case]
        text = json.dumps(graph) if isinstance(graph, dict | list) else graph
        with pytest.raises(ValueError, match=message) as caught:
            MxGraph.from_json(text)
        assert len(str(caught.value)) < 400

    def test_random_changes(self):
        """Two thousand changes of types, numbers and keys: a graph, or a ValueError."""
        rng = random.Random(0)
        found = {MxGraph: 0, ValueError: 0}
        originals = list(LEGACY.values())
        for _ in range(2000):
            graph = copy.deepcopy(rng.choice(originals))
            for _ in range(rng.choice([1, 1, 2, 4])):
                mutate(graph, rng)
            text = json.dumps(graph)
            if rng.random() < 0.1:
                text = text[: rng.randrange(len(text))]
            try:
                read = MxGraph.from_json(text)
            except ValueError:
                found[ValueError] += 1
                continue
            found[MxGraph] += 1
            assert_sound(read)
            assert_sound(read.prune(read.heads))
        assert min(found.values()) > 300, found


def mutate(graph, rng):
    """Change one thing somewhere in parsed JSON."""
    places = []
    waiting = [graph]
    while waiting:
        holder = waiting.pop()
        keys = holder if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    if not places:
        return
    holder, key = rng.choice(places)
    value = holder[key]
    if type(value) is int and rng.random() < 0.7:
        holder[key] = rng.choice([value + 1, value - 1, -value, float(value), 10**20, str(value)])
    elif rng.random() < 0.3:
        del holder[key]
    elif isinstance(value, list) and rng.random() < 0.5:
        value.insert(rng.randint(0, len(value)), rng.choice([0, [0, 0], *value, None]))
    else:
        other = rng.choice(places)
        kinds = [None, True, 0, -1, 0.5, float("nan"), "", "null", "\ud800", "BatchNorm", [], {}]
        holder[key] = rng.choice([*kinds, [[0, 0]], copy.deepcopy(other[0][other[1]])])


def assert_sound(graph):
    """Every node after what it needs, and everything of the type it is said to have."""
    for number, node in enumerate(graph.nodes):
        assert type(node.operator) is type(node.name) is str
        assert all(type(k) is type(v) is str for k, v in node.attributes.items())
        assert all(type(k) is int and k >= 0 for entry in node.inputs for k in entry)
        assert all(source < number for source, _ in node.inputs)
        assert not (node.is_variable and node.inputs)
    assert graph.heads
    assert all(0 <= head < len(graph.nodes) for head, _ in graph.heads)
