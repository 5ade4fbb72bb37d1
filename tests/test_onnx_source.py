"""ONNX networks as sources, against ONNX's own reference implementation."""

import json
import os
import pickle
import sys
from contextlib import suppress

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import xfer
from xfer.sources.data import check_ids
from xfer.sources.onnx import OnnxSource
from xfer.sources.onnx_session import open_session

OPSET = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
node = helper.make_node


def network(nodes, inputs, initializers=None, outputs=(), ir_version=8, listed_inputs=()):
    """A model; `inputs` maps names to shapes, of floats unless the name is `ids`."""
    kinds = {"ids": TensorProto.INT64, "half": TensorProto.FLOAT16, "flags": TensorProto.BOOL}
    inputs = [
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
        for name, shape in {**inputs, **dict(listed_inputs)}.items()
    ]
    tensors = [numpy_helper.from_array(a, n) for n, a in (initializers or {}).items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in outputs or nodes[-1].output[:1]]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=OPSET, ir_version=ir_version)


def reference(model, names, **inputs):
    """What ONNX's reference implementation gives for any outputs of operators."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return ReferenceEvaluator(whole).run(None, inputs)


def normal(*shape, seed=0):
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def model():
    """A small image network: Conv, BatchNormalization and Relu, a residual sum, two heads."""
    nodes = [
        node("Conv", ["data", "w1", "b1"], ["1"], name="conv1", pads=[1] * 4),
        node("BatchNormalization", ["1", "scale", "shift", "mean", "var"], ["2"], name="bn1"),
        node("Relu", ["2"], ["3"], name="relu1"),
        node("Conv", ["3", "w2"], ["4"], name="conv2", pads=[1] * 4),
        node("Add", ["4", "3"], ["5"], name="joined"),
        node("Split", ["5"], ["6a", "6b"], name="halves", axis=1),
        node("Sub", ["6a", "6b"], ["7"], name="difference"),
        node("GlobalAveragePool", ["7"], ["8"], name="pool"),
        node("Constant", [], ["shape"], value_ints=[0, -1]),
        node("Reshape", ["8", "shape"], ["flat"], name="reshape"),
        node("Gemm", ["flat", "w3", "b3"], ["scores"], name="fc", transB=1),
        node("Softmax", ["scores"], ["probabilities"], name="softmax"),
    ]
    initializers = {
        "w1": normal(16, 2, 3, 3),
        "b1": normal(16, seed=1),
        "scale": normal(16, seed=2),
        "shift": normal(16, seed=3),
        "mean": normal(16, seed=4),
        "var": np.abs(normal(16, seed=5)) + 0.5,
        "w2": normal(16, 16, 3, 3, seed=6) / 4,
        "w3": normal(3, 8, seed=7),
        "b3": normal(3, seed=8),
    }
    return network(nodes, {"data": ["n", 2, 6, 6]}, initializers)


@pytest.fixture
def images():
    """21 random images, which fill no whole number of batches of 8."""
    return normal(21, 2, 6, 6, seed=9)


LAYERS = ["1", "3", "6b", "flat", "probabilities"]


def test_layers_are_told_in_order_with_shapes_and_parameters(model):
    source = OnnxSource(model)
    assert source.layer_names == [name for n in model.graph.node for name in n.output if n.input]
    table = {layer.name: layer for layer in source.layers}
    assert (table["1"].operator, table["1"].shape) == ("Conv", (16, 6, 6))
    assert table["1"].parameter_count == 16 * 2 * 9 + 16
    assert table["2"].parameter_count == 32, "running statistics do not count"
    assert table["6b"].shape == (8, 6, 6)
    assert table["flat"].shape == (8,)
    assert table["probabilities"].shape == (3,)
    assert source.input_names == ["data"]
    assert "OnnxSource(12 layers, inputs: data)" in str(source)


def test_a_parameter_is_counted_with_the_first_layer_that_takes_it():
    nodes = [
        node("MatMul", ["x", "w"], ["first"]),
        node("MatMul", ["first", "w"], ["second"]),
        node("Reshape", ["second", "shape"], ["third"]),
    ]
    weights = {"w": normal(4, 4), "shape": np.array([-1, 2, 2])}
    source = OnnxSource(network(nodes, {"x": [None, 4]}, weights))
    assert [layer.parameter_count for layer in source.layers] == [16, 0, 0]
    recurrent = node("GRU", ["x", "w", "r"], ["all", "last"], hidden_size=2)
    weights = {"w": normal(1, 6, 4), "r": normal(1, 6, 2)}
    source = OnnxSource(network([recurrent], {"x": [5, None, 4]}, weights))
    assert [layer.parameter_count for layer in source.layers] == [24 + 12, 0]


def test_features_are_those_of_the_reference(model, images):
    features = OnnxSource(model).extract(images, LAYERS, batch_size=8)
    assert features.matrix.dtype == np.float32
    for name, expected in zip(LAYERS, reference(model, LAYERS, data=images)):
        np.testing.assert_allclose(features[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_file_gives_what_the_network_in_memory_gives(model, images, tmp_path):
    expected = OnnxSource(model).extract(images, LAYERS).matrix
    onnx.save(model, tmp_path / "net.onnx")
    onnx.save(model, tmp_path / "beside.onnx", save_as_external_data=True, location="beside.data")
    for path in (tmp_path / "net.onnx", str(tmp_path / "beside.onnx")):
        np.testing.assert_array_equal(OnnxSource(path).extract(images, LAYERS).matrix, expected)


def test_a_layer_may_be_named_as_its_operator(model, images):
    source = OnnxSource(model)
    assert [layer.name for layer in source.find_layers(["relu1", "fc", "7"])] == [
        "3",
        "scores",
        "7",
    ]
    with pytest.raises(ValueError, match="no layer 'halves'"):
        source.find_layers("halves")  # it has two outputs
    model.graph.node[0].name = "3"
    assert OnnxSource(model).find_layers("3")[0].operator == "Relu", "its own name goes first"
    model.graph.node[0].name = "relu1"
    with pytest.raises(ValueError, match="no layer 'relu1'"):
        OnnxSource(model).find_layers("relu1")


def test_the_network_of_the_caller_is_neither_changed_nor_looked_at_again(model, images):
    before = model.SerializeToString()
    source = OnnxSource(model)
    expected = source.extract(images, "scores").matrix
    assert model.SerializeToString() == before
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    del model.graph.node[3:]
    np.testing.assert_array_equal(source.extract(images, "scores").matrix, expected)
    np.testing.assert_array_equal(source.extract(images, ["scores", "flat"])["scores"], expected)


def test_only_what_the_layers_need_is_run_and_fused(model, images, monkeypatch, tmp_path):
    cut = OnnxSource(model)._graph.cut(["3"])
    assert [entry.op_type for entry in cut.model.graph.node] == [
        "Conv",
        "BatchNormalization",
        "Relu",
    ]
    assert set(cut.parameters) == {"w1", "b1", "scale", "shift", "mean", "var"}
    optimized = tmp_path / "optimized.onnx"
    options = open_session.__globals__["_options"]

    def saving_options():
        made = options()
        made.optimized_model_filepath = str(optimized)
        # Without the layouts of one processor, which do not go into files.
        made.graph_optimization_level = open_session.__globals__[
            "onnxruntime"
        ].GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        return made

    monkeypatch.setitem(open_session.__globals__, "_options", saving_options)
    OnnxSource(model).extract(images, "3")
    assert [entry.op_type for entry in onnx.load(optimized).graph.node] == ["FusedConv"]


def test_initializers_that_are_inputs_too_are_constants(model, images):
    expected = OnnxSource(model).extract(images, "scores").matrix
    listed = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    ]
    model.graph.input.extend(listed)
    unused = numpy_helper.from_array(normal(2), "unused")
    model.graph.initializer.append(unused)
    model.graph.input.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, [2]))
    model.ir_version = 3
    source = OnnxSource(model)
    assert source.input_names == ["data"]
    np.testing.assert_array_equal(source.extract(images, "scores").matrix, expected)


def test_layers_that_need_some_of_the_inputs_take_these_or_all():
    nodes = [node("Relu", ["a"], ["x"]), node("Concat", ["x", "b"], ["y"], axis=1)]
    source = OnnxSource(network(nodes, {"a": ["n", 2], "b": ["n", 3]}))
    data = {"a": normal(5, 2), "b": normal(5, 3)}
    assert source.input_names == ["a", "b"]
    np.testing.assert_array_equal(source.extract(data, "x")["x"], np.maximum(data["a"], 0))
    np.testing.assert_array_equal(source.extract(data, ["y", "x"])["y"][:, 2:], data["b"])
    for some in ({"a": data["a"]}, data["a"]):
        np.testing.assert_array_equal(source.extract(some, "x")["x"], np.maximum(data["a"], 0))
    with pytest.raises(ValueError, match="named b; the network's inputs are a, b; needed here: a$"):
        source.extract({"b": data["b"]}, "x")
    with pytest.raises(ValueError, match="the data are named a; the network's inputs are a, b$"):
        source.extract({"a": data["a"]}, "y")


def test_inputs_are_cast_to_what_the_network_takes():
    nodes = [
        node("Gather", ["table", "ids"], ["words"]),
        node("ReduceSum", ["words", "axes"], ["text"], keepdims=0),
        node("Cast", ["half"], ["whole"], to=TensorProto.FLOAT),
        node("Cast", ["flags"], ["ones"], to=TensorProto.FLOAT),
        node("Concat", ["text", "whole", "ones"], ["all"], axis=1),
    ]
    table = normal(50, 8)
    inputs = {"ids": ["n", 3], "half": ["n", 2], "flags": ["n", 1]}
    source = OnnxSource(network(nodes, inputs, {"table": table, "axes": np.array([1])}))
    ids = np.random.RandomState(1).randint(50, size=(9, 3))
    data = {"ids": ids.astype(np.float32), "half": normal(9, 2), "flags": ids[:, :1] % 2}
    features = source.extract(data, ["text", "all"])
    np.testing.assert_allclose(features["text"], table[ids].sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(features["all"][:, 8:10], data["half"].astype(np.float16))
    np.testing.assert_array_equal(features["all"][:, 10:], data["flags"])
    for name, value in {"ids": 0.5, "half": 1e6, "flags": 2}.items():
        wrong = {**data, name: np.full(data[name].shape, value)}
        with pytest.raises(ValueError, match=f"input '{name}' takes numbers of .*, got {value}"):
            source.extract(wrong, "all")


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("wrong", [-1, 50])
def test_ids_that_the_embedding_does_not_have_are_refused(cast, wrong):
    name = "words" if cast else "ids"
    nodes = [node("Gather", ["table", "number" if cast else name], ["found"], name="embedding")]
    if cast:
        nodes.insert(0, node("Cast", [name], ["number"], to=TensorProto.INT64))
    source = OnnxSource(network(nodes, {name: ["n", 3]}, {"table": normal(50, 8)}))
    ids = np.array([[1, 2, 3], [4, wrong, 5]])
    with pytest.raises(ValueError, match=f"id {wrong}, but layer 'found' has only ids 0 to 49"):
        source.extract(ids, "found")


@pytest.mark.parametrize("wrong", [1.5, np.nan])
def test_ids_with_fractions_are_refused(wrong):
    with pytest.raises(ValueError, match=f"layer 'e' takes word ids; the data hold {wrong}"):
        check_ids({"words": np.array([[1, wrong]])}, [("words", "e", 50)])
    check_ids({"words": np.array([[1.0, 49.0]])}, [("words", "e", 50)])


def test_ids_of_columns_are_not_those_of_rows():
    nodes = [
        node("Gather", ["table", "ids"], ["found"], axis=1),
        node("Transpose", ["found"], ["y"], perm=[1, 2, 0]),
    ]
    table, ids = normal(3, 8), np.array([[1, 7], [6, 5]])
    source = OnnxSource(network(nodes, {"ids": ["n", 2]}, {"table": table}))
    np.testing.assert_array_equal(source.extract(ids, "y")["y"], table.T[ids])


def baked(*dims):
    """A network that keeps its rows only at the size of batches that its Reshape is made for."""
    nodes = [
        node("Reshape", ["x", "apart"], ["parts"]),
        node("MatMul", ["parts", "w"], ["mixed"]),
        node("Reshape", ["mixed", "together"], ["out"]),
    ]
    shapes = {"apart": np.array(dims), "together": np.array([dims[0], -1])}
    return nodes, {"w": normal(3, 4), **shapes}


def test_a_network_written_for_one_example_takes_any_number(model, images):
    expected = OnnxSource(model).extract(images, LAYERS).matrix
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    source = OnnxSource(model)
    np.testing.assert_array_equal(source.extract(images, LAYERS).matrix, expected)
    assert source._own_sizes == {}, "its graph is good for whole batches"


@pytest.mark.parametrize("number", [1, 2, 8, 21])
@pytest.mark.parametrize("size", [1, 4])
def test_a_network_that_works_at_one_size_runs_at_that_size(size, number):
    nodes, weights = baked(size, 2, 3)
    data = normal(number, 6)
    features = OnnxSource(network(nodes, {"x": [size, 6]}, weights)).extract(data, ["out", "mixed"])
    expected = data.reshape(number, 2, 3) @ weights["w"]
    np.testing.assert_allclose(features["mixed"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features["out"], expected.reshape(number, 8), rtol=1e-5, atol=1e-6)


def test_a_graph_that_would_mix_the_rows_of_larger_batches_runs_at_its_own_size():
    # No operator fails on larger batches, and the output has a row for each example.
    nodes = [
        node("Reshape", ["x", "apart"], ["parts"]),
        node("Transpose", ["parts"], ["turned"], perm=[1, 0]),
        node("Reshape", ["turned", "together"], ["out"]),
    ]
    shapes = {"apart": np.array([-1, 3]), "together": np.array([-1, 6])}
    data = normal(21, 6)
    expected = data.reshape(21, 2, 3).transpose(0, 2, 1).reshape(21, 6)
    source = OnnxSource(network(nodes, {"x": [1, 6]}, shapes))
    np.testing.assert_array_equal(source.extract(data, "out").matrix, expected)
    for size in ("n", 4):
        with pytest.raises(
            ValueError, match="layer 'out' gives an example different features in anot"
        ):
            OnnxSource(network(nodes, {"x": [size, 6]}, shapes)).extract(data, "out")


def test_wrong_data_do_not_decide_the_size_of_batches(model, images):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    source = OnnxSource(model)
    with pytest.raises(ValueError, match="do not fit the network"):
        source.extract(images[:, :1], "flat")
    source.extract(images, "flat")
    assert source._own_sizes == {}


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (node("ReduceMean", ["x"], ["y"], axes=[0], keepdims=0), r"output shape \(.,\) for a batc"),
        (node("ReduceMean", ["x"], ["y"], keepdims=0), r"output shape \(\) for a batch of . exam"),
        (node("Transpose", ["x"], ["y"]), "gives an example different features|output shape"),
        (node("Softmax", ["x"], ["y"], axis=0), "layer 'y' gives an example different features in"),
        (node("CumSum", ["x", "zero"], ["y"]), "layer 'y' gives an example different features in"),
        (
            node("CumSum", ["x", "zero"], ["y"], reverse=1),
            "layer 'y' gives an example different fea",
        ),
        (node("RandomNormalLike", ["x"], ["y"]), "must not depend on .* or on random numbers"),
        (
            node("Slice", ["x", "last", "first", "zeros", "last"], ["y"]),
            "different features in another",
        ),
        (node("Shape", ["x"], ["y"]), r"output shape \(2,\) for a batch of . examples"),
        (node("RandomNormal", [], ["y"], shape=[4, 4]), "layers y depend on no input"),
    ],
)
@pytest.mark.parametrize("number", [2, 3, 4])
def test_features_that_are_not_of_one_example_are_refused(last, message, number):
    # With n examples of n numbers, the first axis is right by chance.
    constants = {"zero": np.array(0), "zeros": np.array([0]), "last": np.array([-1])}
    constants["first"] = np.array([-(2**31)])
    source = OnnxSource(network([last], {"x": ["n", number]}, constants))
    with pytest.raises(ValueError, match=message):
        source.extract(normal(number, number), "y")


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_equal_examples_do_not_settle_whether_a_network_mixes_them(number):
    # Turns its batch round, which nobody sees in a batch of one.
    turn = node("Slice", ["x", "last", "first", "zero", "last"], ["y"])
    constants = {"zero": [0], "last": [-1], "first": [-(2**31)]}
    constants = {name: np.array(value) for name, value in constants.items()}
    source = OnnxSource(network([turn], {"x": [1, 6]}, constants))
    data = normal(number, 6)
    np.testing.assert_array_equal(source.extract(data[[0] * 5], "y").matrix, data[[0] * 5])
    np.testing.assert_array_equal(source.extract(data, "y").matrix, data)


def test_rounding_by_the_range_of_a_batch_is_no_mixing():
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["rounded"]),
        node("Clip", ["rounded", "low", "high"], ["y"]),
    ]
    data = normal(40, 3)
    data[20] *= 100
    bounds = {"low": np.array(-2, np.float32), "high": np.array(2, np.float32)}
    features = OnnxSource(network(nodes, {"x": ["n", 3]}, bounds)).extract(data, "y").matrix
    np.testing.assert_allclose(features, data.clip(-2, 2), atol=2)


@pytest.mark.parametrize("place", ["function", "condition"])
def test_rounding_within_a_part_sees_one_example_at_a_time(place):
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    if place == "function":
        model = network([node("Rounded", ["x"], ["y"], domain="my.domain")], {"x": ["n", 3]})
        function = helper.make_function("my.domain", "Rounded", ["x"], ["y"], nodes, OPSET[:1])
        model.functions.append(function)
    else:
        branch = helper.make_graph(nodes, "branch", [], [onnx.ValueInfoProto(name="y")])
        yes = node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
        inside = node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
        model = network([yes, inside], {"x": ["n", 3]})
    data = normal(8, 3)
    data[5] *= 1000
    features = OnnxSource(model).extract(data, "y").matrix
    np.testing.assert_allclose(np.delete(features, 5, 0), np.delete(data, 5, 0), atol=0.02)


def test_shapes_that_only_data_tell_are_known_from_then_on(images):
    nodes = [node("Relu", ["x"], ["y"]), node("Exp", ["y"], ["z"])]
    source = OnnxSource(network(nodes, {"x": ["n", 2, None, None]}))
    assert [layer.shape for layer in source.layers] == [(2, None, None)] * 2
    source.extract(images, "z")
    assert [layer.shape for layer in source.layers] == [(2, None, None), (2, 6, 6)]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 7), r"data of shape \(7,\) for one example do not fit the network: Got invalid dim"),
        ((3, 5, 1), r"data of shape \(5, 1\) for one example do not fit the network: Invalid ra"),
        ((3, 5), r"shape \(5,\) for one example do not fit the network: Reshape 'cut': The inpu"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_a_readable_way(shape, message, capfd):
    columns = 5 if shape[1] == 7 or len(shape) == 3 else None
    cut = node("Reshape", ["x", "s"], ["y"], name="cut")
    source = OnnxSource(network([cut], {"x": ["n", columns]}, {"s": np.array([-1, 4])}))
    with pytest.raises(ValueError, match=message) as caught:
        source.extract(normal(*shape), "y")
    assert "::" not in str(caught.value) and ".h:" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "ONNX Runtime prints nothing"


def test_operators_that_are_not_there_are_all_named(model, images):
    model.graph.node.extend(
        [
            node("Mine", ["flat"], ["mine"], domain="my.domain"),
            node("Yours", ["mine"], ["yours"], domain="my.domain"),
        ]
    )
    source = OnnxSource(model)
    assert source.extract(images, "flat").matrix.shape == (21, 8)
    with pytest.raises(
        ValueError, match="up to yours: .*; it has none of my.domain:Mine, my.domain:Y"
    ):
        source.extract(images, "yours")
    model.graph.node.append(node("Nothing", ["flat"], ["none"]))
    with pytest.raises(ValueError, match="up to none: .*No Op registered for Nothing"):
        OnnxSource(model).extract(images, "none")


def test_what_a_condition_reads_from_outside_is_kept():
    branches = {
        f"{name}_branch": helper.make_graph(
            [node(operator, ["x", "w"], [name])], name, [], [onnx.ValueInfoProto(name=name)]
        )
        for name, operator in {"then": "Add", "else": "Mul"}.items()
    }
    nodes = [
        node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        node("If", ["yes"], ["y"], **branches),
    ]
    model = network(nodes, {"x": ["n", 300]}, {"w": normal(300)})
    source = OnnxSource(model)
    assert source.layer_names == ["y"]
    data = normal(5, 300)
    np.testing.assert_array_equal(source.extract(data, "y").matrix, data + normal(300))


def test_a_table_that_a_condition_reads_too_is_not_lent():
    branch = helper.make_graph(
        [node("Neg", ["w"], ["t"])], "b", [], [onnx.ValueInfoProto(name="t")]
    )
    nodes = [
        node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        node("If", ["yes"], ["negative"], then_branch=branch, else_branch=branch),
        node("Gather", ["w", "ids"], ["found"]),
        node("MatMul", ["found", "negative"], ["y"]),
    ]
    model = network(nodes, {"ids": ["n", 3]}, outputs=["y"])
    table = normal(30, 30)
    session = open_session(model, {"w": table})
    assert not session.lent_parameters
    ids = np.array([[1, 2, 3]])
    np.testing.assert_allclose(session.run(None, {"ids": ids})[0], table[ids] @ -table, rtol=1e-4)


def test_a_fingerprint_knows_what_decides_the_features(model):
    def fingerprint(names="3"):
        return OnnxSource(model).fingerprint([names])

    known = fingerprint()
    json.dumps(known)
    assert set(known["parameters"]) == {"w1", "b1", "scale", "shift", "mean", "var"}
    assert fingerprint("flat")["graph"] != known["graph"]
    model.doc_string = model.producer_name = model.graph.name = "another"
    model.graph.node[0].doc_string = model.graph.node[0].name = "another"
    model.graph.node[-1].attribute.add(name="axis", i=1, type=onnx.AttributeProto.INT)
    model.graph.initializer[-1].raw_data = normal(3).tobytes()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "m"
    assert fingerprint() == known, "nothing of this decides the features"
    model.graph.initializer[0].raw_data = normal(16, 2, 3, 3, seed=1).tobytes()
    other = fingerprint()
    assert other["graph"] == known["graph"]
    assert [n for n, d in other["parameters"].items() if d != known["parameters"][n]] == ["w1"]
    model.graph.node[1].attribute.add(name="epsilon", f=0.1, type=onnx.AttributeProto.FLOAT)
    assert fingerprint()["graph"] != known["graph"]


def test_parts_put_together_give_the_same_network(model, images):
    unused = numpy_helper.from_array(normal(1000), "unused")
    model.graph.initializer.append(unused)
    source = OnnxSource(model)
    source.batch_size = 5
    state, arrays = source.to_state()
    assert state["kind"] == "onnx"
    assert set(state["parameters"]) == {t.name for t in model.graph.initializer} - {"unused"}
    state = json.loads(json.dumps(state))
    assert all(isinstance(a, np.ndarray) and a.dtype != object for a in arrays.values())
    again = OnnxSource.from_state(state, arrays)
    assert again.batch_size == 5
    assert str(again) == str(source)
    assert again.fingerprint(LAYERS) == source.fingerprint(LAYERS)
    expected = source.extract(images, LAYERS).matrix
    np.testing.assert_array_equal(again.extract(images, LAYERS).matrix, expected)


def test_parts_that_are_damaged_or_read_files_are_refused(model):
    state, arrays = OnnxSource(model).to_state()
    with pytest.raises(ValueError, match="damaged"):
        OnnxSource.from_state(state, {**arrays, "graph": arrays["graph"][:-3]})
    with pytest.raises(ValueError, match="Conv 'conv1' takes 'w1', which nothing before it gives"):
        OnnxSource.from_state({**state, "parameters": []}, arrays)
    graph = onnx.ModelProto.FromString(arrays["graph"].tobytes())
    reading = node("Constant", [], ["w1"], value=external("w1", "/etc/passwd"))
    graph.graph.node.insert(0, reading)
    graph = np.frombuffer(graph.SerializeToString(), np.uint8)
    with pytest.raises(ValueError, match="the values of 'w1' are in the file '/etc/passwd': give"):
        OnnxSource.from_state(state, {**arrays, "graph": graph})


def external(name, location, dims=(2,)):
    tensor = TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_files_outside_of_the_folder_are_not_read(kind, constant, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(2, np.float32).tobytes())
    folder = tmp_path / "folder"
    folder.mkdir()
    location = {"parent": "../secret", "absolute": str(secret), "link": "link"}[kind]
    if kind == "link":
        os.symlink(secret, folder / "link")
    model = network([node("Add", ["x", "w"], ["y"])], {"x": ["n", 2]})
    if constant:
        model.graph.node.insert(0, node("Constant", [], ["w"], value=external("w", location)))
    else:
        model.graph.initializer.append(external("w", location))
    onnx.save(model, folder / "net.onnx")
    with pytest.raises(ValueError, match="net.onnx cannot be opened: .*'w'.* outside its folder"):
        OnnxSource(folder / "net.onnx")
    with pytest.raises(ValueError, match="'w'.*: give the path of the .onnx file"):
        OnnxSource(model)


def test_pointers_to_files_are_named_as_such(model, tmp_path):
    path, pointer = tmp_path / "net.onnx", "version https://git-lfs.github.com/spec/v1\nsize 3\n"
    path.write_text(pointer)
    with pytest.raises(ValueError, match="net.onnx is a Git LFS pointer, .*git lfs pull"):
        xfer.open_source(path)
    model.graph.initializer[0].CopyFrom(external("w1", "weights"))
    path.write_bytes(model.SerializeToString())
    (tmp_path / "weights").write_text(pointer)
    with pytest.raises(ValueError, match="weights is a Git LFS pointer"):
        xfer.open_source(path)


def test_damaged_files_are_refused_by_name(model, tmp_path):
    path = tmp_path / "net.onnx"
    with pytest.raises(FileNotFoundError, match="there is no file .*net.onnx"):
        OnnxSource(path)
    content = model.SerializeToString()
    for damaged in (
        b"",
        b"no network",
        content[:-100],
        content[:50],
        np.random.RandomState(0).bytes(1000),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="net.onnx cannot be opened: "):
            OnnxSource(path)
    model.graph.initializer[0].raw_data = b"1234"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="net.onnx cannot be opened: initializer 'w1' cannot be"):
        OnnxSource(path)
    model.graph.initializer[0].CopyFrom(external("w1", "missing"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="net.onnx cannot be opened: .*'missing' cannot be read"):
        OnnxSource(path)


@pytest.mark.parametrize("name", [b"probabilities", b"data", b"softmax", b"Softmax", b"pads"])
def test_names_that_are_no_text_are_refused(name, model, images, tmp_path, capfd):
    content = model.SerializeToString().replace(name, b"\xff" * len(name))
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="net.onnx cannot be opened: its .* is not text"):
        OnnxSource(tmp_path / "net.onnx").extract(images, "probabilities")
    assert capfd.readouterr() == ("", "")


def test_any_damaged_byte_is_refused_or_does_no_harm(model, images, tmp_path):
    path = tmp_path / "net.onnx"
    content = model.SerializeToString()
    for position in range(0, len(content), 37):
        changed = bytearray(content)
        changed[position] ^= 0x11
        path.write_bytes(changed)
        with suppress(ValueError):
            source = OnnxSource(path)
            source.extract(images[:2], source.layer_names[-1])


def test_names_that_are_given_twice_are_refused(model):
    twice = onnx.ModelProto()
    twice.CopyFrom(model)
    twice.graph.node.append(node("Relu", ["1"], ["3"]))
    with pytest.raises(ValueError, match="the network gives {'3'} more than once"):
        OnnxSource(twice)
    model.graph.initializer.append(model.graph.initializer[0])
    with pytest.raises(ValueError, match="initializer 'w1' is listed twice"):
        OnnxSource(model)


@pytest.mark.parametrize("model", [None, 3, b"bytes"])
def test_other_things_are_no_networks(model):
    with pytest.raises(TypeError, match="cannot open .* as an ONNX network; allowed are the path"):
        OnnxSource(model)


def test_a_network_with_inputs_that_are_no_numbers_is_refused():
    model = network([node("Identity", ["x"], ["y"])], {"x": ["n"]})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ValueError, match="input 'x' is of STRING, not an array of numbers"):
        OnnxSource(model).extract(np.ones(3), "y")


def test_sessions_of_many_sets_of_layers_do_not_pile_up(model, images):
    source = OnnxSource(model)
    source.extract(images[:2], "1")
    (first,) = source._runners.values()
    for name in source.layer_names:
        source.extract(images[:2], name)
        source.extract(images[:2], "1")
    assert len(source._runners) == 8
    assert first in source._runners.values(), "the one that is used most often stays"


def test_a_session_takes_parameters_that_are_beside_the_graph():
    nodes = [
        node("Gather", ["table", "ids"], ["words"]),
        node("Transpose", ["words"], ["turned"], perm=[0, 2, 1]),
        node("Add", ["turned", "shift"], ["moved"]),
        node("Transpose", ["moved"], ["back"], perm=[0, 2, 1]),
        node("MatMul", ["back", "w"], ["y"]),
    ]
    # An optimization turns `shift` round in place: being square, it would fit the wrong way too.
    parameters = {
        "table": normal(1000, 20),
        "shift": normal(20, 20, seed=1),
        "w": np.asfortranarray(normal(20, 30, seed=2)),
    }
    model = network(nodes, {"ids": ["n", 20]}, outputs=["y"])
    before = model.SerializeToString()
    session = open_session(model, parameters)
    assert model.SerializeToString() == before
    assert set(session.lent_parameters) == {"table"}
    ids = np.random.RandomState(1).randint(1000, size=(7, 20))
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in parameters.items())
    expected = ReferenceEvaluator(whole).run(None, {"ids": ids})[0]
    del parameters
    np.testing.assert_allclose(session.run(None, {"ids": ids})[0], expected, rtol=1e-4, atol=1e-5)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("value", "most"), [("1", 1), ("1,2", 1), ("", None), ("0", None), ("99999", None)]
)
def test_a_session_uses_no_more_threads_than_allowed(value, most, monkeypatch):
    threads = open_session.__globals__["_threads"]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    all_cores = threads()
    assert 1 <= all_cores <= os.cpu_count()
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads() == (most or all_cores)


def test_a_repurposer_on_an_onnx_file(tmp_path):
    relu = [node("MatMul", ["data", "w"], ["scores"]), node("Relu", ["scores"], ["out"])]
    parameters = {"w": np.random.RandomState(0).normal(size=(4, 3)).astype(np.float32)}
    onnx.save(network(relu, {"data": ["n", 4]}, parameters, outputs=["out"]), tmp_path / "net.onnx")
    data = np.random.RandomState(1).normal(size=(30, 4))
    labels = np.where(data[:, 0] > 0, "right", "left")
    repurposer = xfer.LrRepurposer(tmp_path / "net.onnx", ["out"]).fit(data, labels)
    probabilities = repurposer.predict_proba(data)
    repurposer.save_repurposer("whole", tmp_path)
    repurposer.save_repurposer("bare", tmp_path, save_source_model=False)
    (tmp_path / "net.onnx").rename(tmp_path / "moved.onnx")
    whole = xfer.load("whole", tmp_path)
    bare = xfer.load("bare", tmp_path, source_model=str(tmp_path / "moved.onnx"))
    for loaded in (whole, bare, pickle.loads(pickle.dumps(whole))):
        np.testing.assert_array_equal(loaded.predict_proba(data), probabilities)


def test_sums_of_products_in_8_bits_do_not_overflow():
    """ONNX Runtime's own setting gives half of it on processors that lack VNNI."""
    n = 64
    scalars = {
        "one": np.float32(1),
        "large": np.float32(1e4),
        "zero": np.uint8(0),
        "null": np.int8(0),
    }
    weight = np.full((4, n, 1, 1), 127, np.int8)
    arrays = [
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in scalars.items()
    ]
    arrays.append(onnx.numpy_helper.from_array(weight, "weight"))
    names = ["data", "one", "zero", "weight", "one", "null", "large", "zero"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("QLinearConv", names, ["found"])],
        "sums",
        [onnx.helper.make_tensor_value_info("data", onnx.TensorProto.UINT8, ["n", n, 1, 1])],
        [onnx.helper.make_tensor_value_info("found", onnx.TensorProto.UINT8, None)],
        arrays,
    )
    opset = [onnx.helper.make_opsetid("", 21)]
    source = xfer.open_source(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10))
    found = source.extract(np.full((3, n, 1, 1), 255, np.uint8), "found").matrix
    assert (found == round(255 * 127 * n / 1e4)).all()


@pytest.mark.parametrize("n", [3, 40])
def test_a_chain_that_doubles_is_not_followed(n, tmp_path, monkeypatch):
    """In 1 KB, it would become gigabytes."""
    nodes = [node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(n)]
    ends = [node("ReduceSum", [f"c{n}"], ["s"]), node("Cast", ["s"], ["f"], to=1)]
    model = network([*nodes, *ends, node("Add", ["x", "f"], ["y"])], {"x": ["n", 2]})
    model.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.int64), "c0"))
    infer, followed = onnx.shape_inference.infer_shapes, []

    def watched(model, *, data_prop):
        followed.append(data_prop)
        return infer(model, data_prop=data_prop and n < 10)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", watched)
    assert OnnxSource(model).layer_names[-1] == "y"
    assert followed == [n == 3]


@pytest.mark.skipif(sys.platform == "win32", reason="needs mkfifo")
def test_a_pipe_in_place_of_values_is_refused(model, tmp_path):
    model.graph.initializer[0].CopyFrom(external("w1", "pipe"))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="values of 'w1' are in 'pipe', which is no file"):
        OnnxSource(tmp_path / "net.onnx")
