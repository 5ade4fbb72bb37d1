"""Networks of public repositories that went wrong, in small: right numbers, or what to do."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from operator_checks import check, one_operator, run_converted, run_mxnet

import xfer
from xfer.checkpoint import MxGraph, write_params
from xfer.checkpoint.network import Network
from xfer.cli import main

RANDOM = np.random.RandomState(0)


def floats(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Write a checkpoint `net` into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(nodes, heads, parameters=None):
        """Save nodes (operator, name, attributes, inputs), inputs and heads by name or index."""
        found, places = [], {}
        for operator, name, attributes, inputs in nodes:
            entries = [entry if isinstance(entry, tuple) else (entry, 0) for entry in inputs]
            inputs = [[places[source], output, 0] for source, output in entries]
            places[name] = len(found)
            found.append({"op": operator, "name": name, "attrs": attributes, "inputs": inputs})
        entries = [entry if isinstance(entry, tuple) else (entry, 0) for entry in heads]
        heads = [[places.get(source, source), output, 0] for source, output in entries]
        variables = [place for place, node in enumerate(found) if node["op"] == "null"]
        graph = {"nodes": found, "arg_nodes": variables, "heads": heads}
        graph["attrs"] = {"mxnet_version": ["int", 10901]}
        with open("net-symbol.json", "w") as file:
            json.dump(graph, file)
        write_params("net-0000.params", parameters or {"arg:unused": floats(1)})
        return "net"

    return write


def variable(name, **attributes):
    return "null", name, attributes, []


@pytest.mark.parametrize("steps", [65, 130])
def test_a_network_unrolled_over_many_steps(mx, tmp_path, steps):
    cell = mx.rnn.LSTMCell(4, prefix="lstm_")
    outputs, _ = cell.unroll(steps, mx.sym.Variable("data"), layout="NTC", merge_outputs=False)
    scores = mx.sym.FullyConnected(outputs[-1], num_hidden=2, name="scores")
    module = mx.mod.Module(scores, label_names=None)
    module.bind([("data", (3, steps, 4))], for_training=False)
    module.init_params(mx.init.Normal(0.5))
    module.save_checkpoint(str(tmp_path / "net"), 0)
    data = floats(3, steps, 4)
    found, expected = (
        xfer.load_checkpoint(tmp_path / "net", engine=engine).extract(data, "scores").matrix
        for engine in ("onnxruntime", "mxnet")
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("operator", ["_zeros", "_ones", "_full"])
def test_a_shape_that_mxnet_infers(mx, operator):
    x, value = mx.sym.Variable("x"), {"value": 2} if operator == "_full" else {}
    filled = getattr(mx.sym._internal, operator)(shape=(0, 0), **value)
    chosen = mx.sym.where(x > 0, x, filled)
    parts = [chosen, chosen + filled, filled - x, mx.sym.add_n(filled, x, filled)]
    check(mx, mx.sym.Group(parts), {"x": floats(5, 4)})


@pytest.mark.parametrize("operator", ["sum", "tanh"])
def test_a_shape_that_nothing_tells(save, operator):
    nodes = [
        variable("data"),
        ("_ones", "ones", {"shape": "(0, 0)"}, []),
        (operator, "same", {}, ["ones"]),
        ("broadcast_add", "added", {}, ["data", "same"]),
    ]
    source = xfer.load_checkpoint(save(nodes, ["added"]))
    with pytest.raises(ValueError, match="needs a shape that only MXNet infers"):
        source.extract(floats(5, 4), "added")
    assert source.layers[0].shape is None


def convert(*options):
    """Run `xfer convert` on the checkpoint that was saved last."""
    return main(["convert", "net", "0", "net.onnx", *options])


class TestOneNumberOfExamples:
    """Networks whose graph holds the number of examples that they were trained with."""

    NODES = (
        variable("data"),
        ("Reshape", "images", {"shape": "(8, 1, 4)"}, ["data"]),
        ("Flatten", "flat", {}, ["images"]),
    )

    @pytest.mark.parametrize("engine", ["onnxruntime", "mxnet"])
    @pytest.mark.parametrize("n", [1, 5, 8, 20])
    def test_any_other_number(self, save, n, engine):
        if engine == "mxnet":
            pytest.importorskip("mxnet")
        x = floats(n, 4)
        source = xfer.load_checkpoint(save(self.NODES, ["flat"]), engine=engine)
        for rows in (x, x[:3]):
            np.testing.assert_array_equal(source.extract(rows, "flat").matrix, rows)

    def test_a_repurposer(self, save):
        x = floats(20, 4)
        x[::2] += 9
        source = xfer.load_checkpoint(save(self.NODES, ["flat"]))
        repurposer = xfer.LrRepurposer(source, "flat").fit(x, np.arange(20) % 2)
        assert repurposer.score(x[:3], np.arange(3) % 2) == 1

    def test_a_short_batch_of_a_module(self, mx):
        x = floats(5, 4)
        images = mx.sym.Variable("data").reshape((8, 1, 4))
        flat = mx.sym.Flatten(images, name="flat")
        module = mx.mod.Module(flat, label_names=None)
        module.bind([("data", (8, 4))], for_training=False)
        module.init_params()
        np.testing.assert_array_equal(xfer.open_source(module).extract(x, "flat").matrix, x)

    def test_as_an_onnx_file(self, save, capsys):
        save(self.NODES, ["flat"])
        assert convert("--shape", "data=4") == 1
        assert "written for a fixed batch size, give that (--batch)" in capsys.readouterr().err
        assert convert("--shape", "data=4", "--batch", "8") == 0
        assert "Input data (8, 4) for 8 examples" in capsys.readouterr().out
        x = floats(8, 4)
        (found,) = onnxruntime.InferenceSession("net.onnx").run(None, {"data": x})
        np.testing.assert_array_equal(found, x)

    def test_examples_that_are_mixed_are_refused(self, save):
        nodes = [*self.NODES, ("reverse", "mixed", {"axis": "0"}, ["flat"])]
        source = xfer.load_checkpoint(save(nodes, ["mixed"]))
        with pytest.raises(ValueError, match="different features in another batch"):
            source.extract(floats(20, 4), "mixed")


class TestConvert:
    """`xfer convert` writes a network, or says what to do."""

    RELU = "Activation", "relu", {"act_type": "relu"}, ["data"]

    @pytest.mark.parametrize(
        ("nodes", "heads", "message"),
        [
            (
                [("Custom", "mine", {"op_type": "mine"}, ["data"])],
                ["mine", ("mine", 1)],
                "no conversion for operator Custom (layer 'mine')",
            ),
            ([RELU], ["relu", ("relu", 1)], "no conversion for output 1 of layer 'relu'"),
            (
                [RELU, ("tanh", "tanh", {}, [("relu", 2)])],
                ["tanh"],
                "no conversion for output 2 of layer 'relu' (Activation) (layer 'tanh')",
            ),
            ([RELU], ["relu"], "the number of dimensions of 'data': give the sizes of one example"),
            ([], ["data"], "different names, got none"),
        ],
    )
    def test_what_is_refused(self, save, capsys, nodes, heads, message):
        save([variable("data"), *nodes], heads)
        assert convert() == 1
        assert message in capsys.readouterr().err

    def test_a_label_among_the_outputs(self, save):
        save([variable("data"), self.RELU, variable("label")], ["relu", "label"])
        assert convert("--shape", "data=4") == 0
        assert [output.name for output in onnx.load("net.onnx").graph.output] == ["relu"]

    def test_outputs_of_one_name(self, save):
        nodes = [variable("data"), self.RELU, ("tanh", "relu", {}, ["relu"])]
        save(nodes, [2, 1])
        assert convert("--shape", "data=4") == 0
        x = floats(5, 4)
        first, second = onnxruntime.InferenceSession("net.onnx").run(None, {"data": x})
        np.testing.assert_allclose(second, np.maximum(x, 0))
        np.testing.assert_allclose(first, np.tanh(second), atol=1e-6)

    def test_one_id_for_each_example(self, save, capsys):
        nodes = [
            variable("user"),
            variable("e_weight"),
            ("Embedding", "e", {"input_dim": "9", "output_dim": "3"}, ["user", "e_weight"]),
            variable("w"),
            ("FullyConnected", "fc", {"num_hidden": "2", "no_bias": "True"}, ["e", "w"]),
        ]
        save(nodes, ["fc"], {"arg:e_weight": floats(9, 3), "arg:w": floats(2, 3)})
        assert convert() == 0
        assert "Input user (n,) for n examples" in capsys.readouterr().out

    def test_steps_that_are_squeezed(self, save, capsys):
        split = {"num_outputs": "5", "axis": "1", "squeeze_axis": "True"}
        nodes = [
            variable("data"),
            ("SliceChannel", "steps", split, ["data"]),
            variable("w"),
            ("FullyConnected", "fc", {"num_hidden": "3", "no_bias": "True"}, ["steps", "w"]),
        ]
        save(nodes, ["fc"], {"arg:w": floats(3, 4)})
        assert convert() == 1
        assert "give the sizes of one example" in capsys.readouterr().err
        assert convert("--shape", "data=5,4") == 0


class TestLabelsThatAreData:
    EMBEDDING = {"input_dim": "9", "output_dim": "3"}
    NODES = (
        variable("data"),
        variable("table"),
        ("Embedding", "one", EMBEDDING, ["data", "table"]),
        variable("label"),
        ("Embedding", "other", EMBEDDING, ["label", "table"]),
        ("elemwise_mul", "product", {}, ["one", "other"]),
    )

    def test_what_every_output_reads_through_parameters(self, save):
        table = floats(9, 3)
        source = xfer.load_checkpoint(save(self.NODES, ["product"], {"arg:table": table}))
        data = {"data": np.arange(4), "label": np.arange(4) + 2}
        found = source.extract(data, "product").matrix
        np.testing.assert_allclose(found, table[data["data"]] * table[data["label"]], rtol=1e-6)

    def test_labels_of_a_loss(self, save):
        nodes = [
            *self.NODES,
            ("SoftmaxOutput", "softmax", {}, ["one", "label"]),
            ("MakeLoss", "loss", {}, ["product"]),
        ]
        save(nodes, ["softmax", "loss"], {"arg:table": floats(9, 3)})
        assert xfer.load_checkpoint("net").input_names == ["data"]


class TestFiles:
    NODES = (
        variable("data"),
        variable("one_weight"),
        ("FullyConnected", "one", {"num_hidden": "3", "no_bias": "True"}, ["data", "one_weight"]),
        variable("two_weight"),
        ("FullyConnected", "two", {"num_hidden": "2", "no_bias": "True"}, ["one", "two_weight"]),
    )
    WEIGHTS = {"arg:one_weight": floats(3, 4), "arg:two_weight": floats(2, 3)}

    def test_names_that_do_not_go_together(self, save, tmp_path):
        save(self.NODES, ["two"], self.WEIGHTS)
        x = floats(5, 4)
        expected = xfer.load_checkpoint("net").extract(x, "two").matrix
        parameters, graph = tmp_path / "best.params", tmp_path / "graph-symbol.json"
        (tmp_path / "net-0000.params").rename(parameters)
        (tmp_path / "net-symbol.json").rename(graph)
        for source in (
            xfer.load_checkpoint(symbol_file=graph, params_file=parameters),
            xfer.open_source(parameters),
        ):
            np.testing.assert_array_equal(source.extract(x, "two").matrix, expected)
        shutil.copy(graph, tmp_path / "other-symbol.json")
        with pytest.raises(FileNotFoundError, match=r"graph-symbol.json, other-symbol.json; use"):
            xfer.open_source(parameters)
        with pytest.raises(TypeError, match="a prefix, or both symbol_file and params_file"):
            xfer.load_checkpoint("net", symbol_file=graph)

    @pytest.mark.parametrize("engine", ["onnxruntime", "mxnet"])
    def test_a_missing_parameter_that_few_layers_need(self, save, engine):
        if engine == "mxnet":
            pytest.importorskip("mxnet")
        first = self.WEIGHTS["arg:one_weight"]
        save(self.NODES, ["two"], {"arg:one_weight": first})
        with pytest.warns(UserWarning, match="lacks two_weight; it has one_weight"):
            source = xfer.load_checkpoint("net", engine=engine)
        assert source.input_names == ["data"]
        x = floats(5, 4)
        np.testing.assert_allclose(source.extract(x, "one").matrix, x @ first.T, rtol=1e-5)
        with pytest.raises(ValueError, match="no parameters? .*two_weight"):
            source.extract(x, "two")

    def test_a_graph_that_is_a_pointer(self, save, tmp_path):
        save(self.NODES, ["two"], self.WEIGHTS)
        (tmp_path / "net-symbol.json").write_text("version https://git-lfs.github.com/spec/v1")
        with pytest.raises(ValueError, match="net-symbol.json is a Git LFS pointer"):
            xfer.load_checkpoint("net")


def test_names_of_2016(mx):
    for name in ("MultiBoxPrior", "MultiBoxTarget", "MultiBoxDetection"):
        old, own = (one_operator(one, ["data"]) for one in (name, f"_contrib_{name}"))
        assert MxGraph.from_json(old) == MxGraph.from_json(own)
    parameters = {name: abs(floats(3)) for name in ("gamma", "beta", "mean", "var")}
    data = {"data": floats(4, 3, 8, 6), **parameters}
    found = run_converted(one_operator("CuDNNBatchNorm", data, fix_gamma=False), data)
    symbol = mx.sym.load_json(one_operator("BatchNorm", data, fix_gamma=False))
    np.testing.assert_allclose(found, run_mxnet(mx, symbol, data)[0], atol=1e-5)


@pytest.mark.parametrize("operator", ["Custom", "WarpCTC", "CTCLoss"])
def test_an_output_without_conversion(save, capsys, operator):
    nodes = [
        variable("data"),
        variable("w"),
        ("FullyConnected", "fc", {"num_hidden": "3", "no_bias": "True"}, ["data", "w"]),
        variable("label"),
        (operator, "loss", {"op_type": "mine"} if operator == "Custom" else {}, ["fc", "label"]),
    ]
    w, x = floats(3, 4), floats(5, 4)
    source = xfer.load_checkpoint(save(nodes, ["loss"], {"arg:w": w}))
    np.testing.assert_allclose(source.extract(x, "fc").matrix, x @ w.T, rtol=1e-4, atol=1e-6)
    assert convert("--layer", "fc") == 0
    capsys.readouterr()
    assert convert() == 1
    assert "cut the network before it with --layer, such as --layer fc" in capsys.readouterr().err


def test_ids_with_fractions_are_refused(save):
    sizes = {"input_dim": "5", "output_dim": "2"}
    nodes = [variable("data"), variable("w"), ("Embedding", "e", sizes, ["data", "w"])]
    source = xfer.load_checkpoint(save(nodes, ["e"], {"arg:w": floats(5, 2)}))
    with pytest.raises(ValueError, match="layer 'e' takes word ids; the data hold 1.5"):
        source.extract(np.array([[1, 1.5]]), "e")


class TestEightBits:
    @pytest.mark.parametrize("engine", ["auto", "mxnet"])
    @pytest.mark.parametrize("operator", ["quantize", "quantize_v2"])
    def test_a_range_of_the_values_is_that_of_one_example(self, mx, engine, operator):
        data, contrib = mx.sym.Variable("data"), mx.sym.contrib
        if operator == "quantize":
            parts = contrib.quantize(data, mx.sym.min(data), mx.sym.max(data), out_type="uint8")
        else:
            parts = contrib.quantize_v2(data, out_type="int8")
        rounded = contrib.dequantize(*parts, name="rounded")
        module = mx.mod.Module(rounded, label_names=None)
        module.bind([("data", (8, 4))], for_training=False)
        module.init_params()
        x = np.abs(floats(8, 4))
        x[5] *= 1000
        if engine == "auto":
            with pytest.warns(UserWarning, match="MXNet runs the network"):
                features = xfer.open_source(module).extract(x, "rounded").matrix
        else:
            features = xfer.open_source(module, engine=engine).extract(x, "rounded").matrix
        np.testing.assert_allclose(np.delete(features, 5, 0), np.delete(x, 5, 0), atol=0.03)

    def test_a_range_that_is_known(self, save):
        ends = {"min_calib_range": "-1", "max_calib_range": "1"}
        nodes = [
            *(variable("data"), variable("low"), variable("high")),
            ("_contrib_quantize", "given", {}, ["data", "low", "high"]),
            ("_contrib_quantize_v2", "calibrated", ends, ["data"]),
            ("_contrib_quantize_v2", "weights", {}, ["low"]),
            ("_contrib_quantize", "found", {}, ["data", ("given", 1), "data"]),
            ("_contrib_requantize", "again", {}, ["calibrated"]),
            ("_cond", "body", {}, ["data"]),
        ]
        parameters = {"arg:low": floats(1), "arg:high": floats(1)}
        save(nodes, ["given", "calibrated", "weights", "found", "again", "body"], parameters)
        graph = json.loads(Path("net-symbol.json").read_text())
        x = {"op": "null", "name": "x", "inputs": []}
        inner = {"op": "_contrib_quantize_v2", "name": "inner", "inputs": [[0, 0, 0]]}
        graph["nodes"][-1]["subgraphs"] = [{"nodes": [x, inner], "heads": [[1, 0, 0]]}]
        Path("net-symbol.json").write_text(json.dumps(graph))
        network = Network.from_files("net", 0)
        decided = [network.quantizes_by_batch([name]) for name in network.head_names]
        assert decided == [False, False, False, True, True, True]

    @pytest.mark.parametrize("kind", ["Convolution", "FullyConnected"])
    @pytest.mark.parametrize("zero", [["bias"], ["weight"], ["weight", "bias"]])
    def test_ranges_of_zero(self, mx, tmp_path, kind, zero):
        own = {"kernel": (3, 3), "num_filter": 4} if kind == "Convolution" else {"num_hidden": 4}
        one = getattr(mx.sym, kind)(mx.sym.Variable("data"), name="one", **own)
        one = mx.sym.Activation(one, act_type="relu")
        symbol = mx.sym.FullyConnected(one, num_hidden=3, name="scores")
        x = abs(floats(4, 3, 6, 6))
        shapes = zip(symbol.list_arguments(), symbol.infer_shape(data=x.shape)[0])
        weights = {name: floats(*shape) for name, shape in shapes if name != "data"}
        for name in zero:
            weights[f"one_{name}"][:] = 0
        symbol, arguments, auxiliary = mx.contrib.quantization.quantize_model(
            symbol.get_backend_symbol("MKLDNN_QUANTIZE"),
            {name: mx.nd.array(array) for name, array in weights.items()},
            {},
            label_names=None,
            ctx=mx.cpu(),
            calib_mode="naive",
            calib_data=mx.io.NDArrayIter(x, None, len(x)),
            quantized_dtype="auto",
            logger=None,
        )
        symbol = symbol.get_backend_symbol("MKLDNN_QUANTIZE")
        mx.model.save_checkpoint(str(tmp_path / "net"), 0, symbol, arguments, auxiliary)
        found, expected = (
            source.extract(x, source.layer_names[-1]).matrix
            for engine in ("onnxruntime", "mxnet")
            for source in [xfer.load_checkpoint(tmp_path / "net", engine=engine)]
        )
        np.testing.assert_allclose(found, expected, atol=1e-3)
