"""ModelHandler: what it tells of a network, and what it makes of it."""

import shutil
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
from conftest import cifar_input, load_module
from test_edit import SEEDS, random_network

import xfer
from xfer.checkpoint.symbol import MxGraph, Node
from xfer.model_handler import ModelError, ModelHandler
from xfer.sources.checkpoint import CheckpointSource

CHECKPOINTS = {
    "mnist_lenet": (10, (1, 28, 28)),
    "newsgroups_cnn": (0, (300,)),
    "cifar_resnet20_v1": (0, (3, 32, 32)),
    "cifar_resnet20_v2": (0, (3, 32, 32)),
}


@pytest.fixture
def handler(module):
    return ModelHandler(module)


@pytest.fixture
def lenet(shared):
    return ModelHandler(shared / "models" / "mnist_lenet-0010.params")


def examples(shape, number=6):
    random = np.random.RandomState(0)
    return (
        random.randint(0, 100, (number, *shape)) if len(shape) == 1 else random.rand(number, *shape)
    )


def layer(operator, name, **attributes):
    """A layer without its data, made without MXNet."""
    return MxGraph(
        (Node("null", f"{name}_data"), Node(operator, name, attributes, ((0, 0),))), ((1, 0),)
    )


class TestWithoutMXNet:
    """Inspection, drops and features of checkpoints; this also runs where there is no MXNet."""

    @pytest.mark.parametrize("name", CHECKPOINTS)
    def test_checkpoints(self, shared, name):
        epoch, shape = CHECKPOINTS[name]
        prefix = shared / "models" / name
        source = xfer.load_checkpoint(prefix, epoch)
        handler = ModelHandler(f"{prefix}-{epoch:04d}.params")
        assert handler.layer_names == source.layer_names
        assert [*handler.layer_type_dict.items()] == [
            (one.name, one.operator) for one in source.layers
        ]
        assert ModelHandler(source).layer_type_dict == handler.layer_type_dict
        inner, data = handler.layer_names[-4:-1], examples(shape)
        before, labels = handler.get_layer_output(data, inner)
        assert labels is None
        assert isinstance(before, OrderedDict)
        assert [*before] == inner
        count = len(handler.layer_names)
        owned = handler.get_layer_parameters(handler.layer_names[-1:])
        handler.drop_layer_top()
        assert len(handler.layer_names) == count - 1
        after, _ = handler.get_layer_output(data, inner)
        expected = source.extract(data, inner)
        for layer in inner:
            np.testing.assert_array_equal(before[layer], expected[layer].reshape(len(data), -1))
            np.testing.assert_allclose(after[layer], before[layer], rtol=1e-5, atol=1e-6)
        kept = {**handler.arg_params, **handler.aux_params}
        assert {*kept} == {name.partition(":")[2] for name in source.to_state()[1]} - {*owned}

    def test_parameters_that_belong_to_no_layer_are_dropped(self, lenet):
        before = lenet.arg_params
        lenet.drop_layer_top(2)
        lenet.drop_layer_bottom()
        gone = {f"{n}_{p}" for n in ("convolution0", "fullyconnected1") for p in ("weight", "bias")}
        assert {*lenet.arg_params} == {*before} - gone
        assert all(np.shares_memory(lenet.arg_params[n], before[n]) for n in lenet.arg_params)
        assert lenet.aux_params == {}
        assert lenet.network.idle_names == []

    def test_what_was_dropped_at_the_bottom_is_given_as_data(self, lenet):
        data = examples((1, 28, 28))
        features = lenet.source.extract(data, ["pooling0", "softmax"])
        lenet.drop_layer_bottom(3)
        found, _ = lenet.get_layer_output(features["pooling0"], ["softmax"])
        np.testing.assert_allclose(found["softmax"], features["softmax"], rtol=1e-5, atol=1e-7)

    def test_layers_are_added_at_the_top(self, lenet):
        data = examples((1, 28, 28))
        before = lenet.source.extract(data, ["flatten0"]).matrix
        lenet.drop_layer_top(4)
        lenet.add_layer_top([layer("tanh", "a"), layer("_mul_scalar", "b", scalar="2.0")])
        assert lenet.layer_names[-3:] == ["flatten0", "a", "b"]
        found, _ = lenet.get_layer_output(data, ["flatten0", "b"])
        np.testing.assert_allclose(found["flatten0"], before, rtol=1e-6)
        np.testing.assert_allclose(found["b"], 2 * np.tanh(before), rtol=1e-4, atol=1e-6)

    def test_layers_are_added_at_the_bottom_in_the_order_of_the_data(self, lenet):
        data = examples((1, 28, 28))
        expected = lenet.source.extract((data + 1) * 2, ["softmax"]).matrix
        lenet.add_layer_bottom(
            [layer("_plus_scalar", "a", scalar="1"), layer("_mul_scalar", "b", scalar="2")]
        )
        assert lenet.layer_names[:3] == ["a", "b", "convolution0"]
        found, _ = lenet.get_layer_output(data, ["softmax"])
        np.testing.assert_allclose(found["softmax"], expected, rtol=1e-4, atol=1e-7)

    def test_types_and_names(self, lenet):
        assert lenet.get_layer_type("softmax") == "SoftmaxOutput"
        for name in ("SoftmaxOutput", "Softmax", "softmaxoutput"):
            assert lenet.get_layer_names_matching_type(name) == ["softmax"]
        assert lenet.get_layer_names_matching_type("flatten") == ["flatten0"]
        convolutions = ["convolution0", "convolution1"]
        assert lenet.get_layer_names_matching_type("convolution") == convolutions
        for name in ("softmax", "null", "nothing", ""):
            assert lenet.get_layer_names_matching_type(name) == []
        with pytest.raises(ModelError, match="no layer 'convolution'; nearest: convolution[01]"):
            lenet.get_layer_type("convolution")

    @pytest.mark.parametrize("names", ["softmax", 3, None])
    def test_names_are_a_list(self, lenet, names):
        for ask in (lenet.get_layer_parameters, lambda n: lenet.get_layer_output([], n)):
            with pytest.raises(TypeError, match="layer names must be a list, got"):
                ask(names)

    def test_as_a_source_of_a_repurposer(self, lenet):
        lenet.drop_layer_top(2)
        data, labels = examples((1, 28, 28), 12), np.array(["a", "b"] * 6)
        repurposer = xfer.LrRepurposer(lenet.source, ["activation2"]).fit(data, labels)
        kept = lenet.source
        expected = repurposer.predict_proba(data)
        lenet.drop_layer_top()
        assert lenet.source is not kept
        np.testing.assert_array_equal(repurposer.predict_proba(data), expected)

    def test_layers_without_values(self, lenet):
        lenet.drop_layer_top(2)
        new = ("FullyConnected", "new", {"num_hidden": "2"}, ((0, 0), (1, 0), (2, 0)))
        names = ("new_data", "new_weight", "new_bias")
        lenet.add_layer_top(MxGraph((*(Node("null", n) for n in names), Node(*new)), ((3, 0),)))
        data = examples((1, 28, 28))
        assert lenet.get_layer_parameters(["new"]) == ["new_weight", "new_bias"]
        assert lenet.get_layer_output(data, ["flatten0"])[0]["flatten0"].shape == (6, 800)
        with pytest.raises(ModelError, match="'new_weight' has no values yet, and layers new need"):
            lenet.get_layer_output(data, ["new"])

    def test_text(self, lenet):
        assert repr(lenet) == "ModelHandler(11 layers, inputs: data)"
        lines = str(lenet).splitlines()
        assert lines[0] == repr(lenet)
        assert lines[2].split()[:2] == ["convolution0", "Convolution"]

    def test_diagram(self, lenet, tmp_path):
        lenet.get_layer_output(examples((1, 28, 28)), ["flatten0"])  # shapes are known from here on
        diagram = lenet.visualize_net()
        assert repr(diagram) == "Diagram(11 layers)"
        for name in ["data", *lenet.layer_names]:
            assert name in diagram.dot and name in diagram._repr_html_()
        assert "(20, 12, 12)" in diagram.dot, "the shape of pooling0"
        diagram.save(tmp_path / "net.dot")
        assert (tmp_path / "net.dot").read_text() == diagram.dot
        with pytest.raises(ValueError, match=r"must end in \.dot, \.svg, \.pdf or \.png, got"):
            diagram.save(tmp_path / "net.jpg")

    def test_diagram_as_a_picture(self, lenet, tmp_path):
        diagram, path = lenet.visualize_net(), tmp_path / "net.svg"
        if shutil.which("dot"):
            diagram.save(path)
            assert all(name in path.read_text() for name in lenet.layer_names)
            assert diagram._repr_svg_().startswith("<svg")
        else:
            assert diagram._repr_svg_() is None
            with pytest.raises(RuntimeError, match="needs Graphviz"):
                diagram.save(path)
            assert not path.exists()

    def test_save_symbol(self, lenet, tmp_path):
        lenet.drop_layer_top()
        path = lenet.save_symbol(tmp_path / "small")
        assert path == str(tmp_path / "small-symbol.json")
        text = (tmp_path / "small-symbol.json").read_text()
        assert MxGraph.from_json(text) == lenet.network.graph
        assert [one.name for one in tmp_path.iterdir()] == ["small-symbol.json"]

    def test_import_is_light(self):
        code = "import sys, xfer, xfer.model_handler; print('mxnet' in sys.modules)"
        command = [sys.executable, "-c", code]
        assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"
        assert xfer.ModelHandler is ModelHandler
        assert xfer.ModelError is ModelError

    def test_what_is_no_network(self, shared):
        for wrong in (3, None, "network.json", {"layers": 1}):
            with pytest.raises(TypeError, match="cannot"):
                ModelHandler(wrong)
        with pytest.raises(ValueError, match="num_devices must be an integer >= 1, got 0"):
            ModelHandler("mnist_lenet-0010.params", num_devices=0)
        with pytest.raises(FileNotFoundError, match="no file"):
            ModelHandler(shared / "models" / "none-0000.params")


class TestRefused:
    """What is refused leaves everything as it was."""

    @pytest.fixture
    def same(self, handler):
        network, source = handler.network, handler.source
        text = network.graph.to_json()
        yield handler
        assert handler.network is network
        assert handler.source is source
        assert handler.network.graph.to_json() == text

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda h, s: h.drop_layer_top(9),
                "layer '_minus[0-9]*' .*elemwise_sub.* joins output 0",
            ),
            (lambda h, s: h.drop_layer_bottom(9), "'data' is read by 'conv2' .* and 'joined'"),
            (lambda h, s: h.drop_layer_top(0), "must be an integer >= 1, got 0"),
            (lambda h, s: h.add_layer_top(s.relu(name="r")), "'softmax' .* is an output layer"),
            (
                lambda h, s: h.add_layer_bottom(s.SoftmaxOutput(name="r")),
                "'r' .* is an output layer",
            ),
            (lambda h, s: h.add_layer_bottom(s.relu(name="fc1")), "has the name 'fc1' already"),
            (
                lambda h, s: h.add_layer_bottom([s.relu(name="r"), s.relu(name="fc1")]),
                "has the name 'fc1' already",
            ),
            (
                lambda h, s: h.add_layer_bottom([s.relu(name="r"), s.tanh(name="r")]),
                "has the name 'r' already",
            ),
            (lambda h, s: h.add_layer_bottom(s.SliceChannel(num_outputs=2)), "there are 2 outputs"),
            (lambda h, s: h.add_layer_bottom(s.var("a") + s.var("b")), "'a' or 'b'; name that"),
            (lambda h, s: h.add_layer_top([]), "no layer was given"),
            (lambda h, s: h.update_sym(s.relu(s.var("z"))), "reads none of .* .data.; it has z"),
        ],
    )
    def test_edits(self, mx, same, change, message):
        with pytest.raises(ValueError, match=message):
            change(same, mx.sym)

    @pytest.mark.parametrize("wrong", ["fc", None, [3], [["fc"]]])
    def test_what_is_no_layer(self, same, wrong):
        for change in (same.add_layer_top, same.add_layer_bottom, same.update_sym):
            with pytest.raises(
                TypeError, match="a layer must be an mxnet Symbol or an MxGraph, got"
            ):
                change(wrong)

    def test_another_name_for_the_data(self, module):
        handler = ModelHandler(module, data_name="dat")
        with pytest.raises(ModelError, match="no input 'dat'; nearest: data"):
            handler.drop_layer_bottom()

    def test_other_models(self, mx):
        sequential = mx.mod.SequentialModule()
        with pytest.raises(TypeError, match="SequentialModule as a source model; allowed is an mx"):
            ModelHandler(sequential)
        with pytest.raises(TypeError, match="ModelHandler.from_gluon"):
            ModelHandler(mx.gluon.nn.Dense(3))


class TestModules:
    def test_bound_or_not_with_parameters_or_without(self, mx, module):
        bare = mx.mod.Module(module.symbol)
        unready = mx.mod.Module(module.symbol)
        unready.bind([("data", (8, 2, 6, 6))], [("softmax_label", (8,))])
        handlers = [ModelHandler(one) for one in (module, bare, unready)]
        statistics = ["bn1_moving_mean", "bn1_moving_var"]
        for handler in handlers:
            assert handler.layer_names == handlers[0].layer_names
            names = handler.get_layer_parameters(["conv1", "bn1"])
            owned = ["conv1_weight", "conv1_bias", "bn1_gamma", "bn1_beta"]
            assert names == owned + statistics
        assert [sorted(one.aux_params) for one in handlers] == [statistics, [], []]
        for handler in handlers:
            handler.drop_layer_top(2)
            handler.drop_layer_bottom()
            assert handler.layer_names[0] == "bn1"
            assert handler.layer_names[-1] == "dropout0"

    def test_outputs_and_labels(self, mx, module, images):
        labels = np.arange(21) * 3
        names = ["conv1", "halves_output0", "halves_output1"]
        expected = xfer.open_source(module).extract(images, names)
        handler = ModelHandler(module)
        iterator = mx.io.NDArrayIter(images, labels, 8)
        found, read = handler.get_layer_output(iterator, ["conv1", "halves"])
        np.testing.assert_array_equal(read, labels)
        assert [*found] == names
        for name, array in found.items():
            np.testing.assert_allclose(array, expected[name].reshape(21, -1), rtol=1e-5, atol=1e-6)
        again, _ = handler.get_layer_output(iterator, ["conv1_output", "halves_output1"])
        assert [*again] == ["conv1", "halves_output1"]

    def test_devices(self, mx, module, images):
        expected, _ = ModelHandler(module).get_layer_output(images, ["flat"])
        for options in (
            {"context_function": mx.cpu},
            {"num_devices": 2},
            {"context_function": mx.cpu, "num_devices": 3},
        ):
            found, _ = ModelHandler(module, **options).get_layer_output(images, ["flat"])
            np.testing.assert_allclose(found["flat"], expected["flat"], rtol=1e-4, atol=1e-6)

    def test_the_module_is_left_alone(self, mx, module):
        before = {name: array.asnumpy() for name, array in module.get_params()[0].items()}
        handler = ModelHandler(module)
        copies = handler.arg_params
        handler.drop_layer_top(3)
        module.init_params(mx.init.One(), force_init=True)
        for name, array in copies.items():
            np.testing.assert_array_equal(array, before[name])

    def test_shapes_of_old_data_are_forgotten(self, module, images):
        handler = ModelHandler(module)
        shapes = {one.name: one.shape for one in handler.source.layers}
        assert shapes["joined"] == (4, 6, 6)
        features = handler.source.extract(images, ["conv1", "joined"])
        handler.drop_layer_bottom()
        shapes = {one.name: one.shape for one in handler.source.layers}
        assert shapes["joined"] == (4, None, None)
        found, _ = handler.get_layer_output(features["conv1"], ["joined"])
        np.testing.assert_allclose(
            found["joined"], features["joined"].reshape(21, -1), rtol=1e-5, atol=1e-5
        )

    @pytest.mark.parametrize("seed", SEEDS[:12])
    def test_symbols_are_the_graph(self, mx, seed):
        handler = ModelHandler(CheckpointSource(random_network(seed)))
        again = MxGraph.from_json(handler.symbol.tojson())
        assert again.prune(again.heads) == handler.network.graph
        module = mx.mod.Module(handler.symbol, label_names=None)
        assert ModelHandler(module).layer_names == handler.layer_names

    def test_update_sym(self, mx, handler):
        inner = handler.symbol.get_internals()["joined_output"]
        before = handler.arg_params
        handler.update_sym(mx.sym.FullyConnected(inner, num_hidden=2, name="end"))
        assert handler.layer_names == ["conv1", "bn1", "relu1", "conv2", "joined", "end"]
        assert {*handler.arg_params} == {n for n in before if not n.startswith("fc1")}


def train(module, iterator, steps=2, rate=0.5):
    module.init_optimizer(optimizer="sgd", optimizer_params={"learning_rate": rate})
    for _ in range(steps):
        iterator.reset()
        for batch in iterator:
            module.forward_backward(batch)
            module.update()
    return values(module)


def values(module):
    arguments, statistics = module.get_params()
    return {name: array.asnumpy() for name, array in {**arguments, **statistics}.items()}


class TestGetModule:
    @pytest.fixture
    def iterator(self, mx, images):
        return mx.io.NDArrayIter(images, np.arange(21) % 3, 7)

    def test_parameters(self, mx, handler, iterator):
        handler.drop_layer_top(2)
        handler.add_layer_top(mx.sym.FullyConnected(num_hidden=5, name="head"))
        handler.add_layer_top([mx.sym.BatchNorm(name="bn9"), mx.sym.SoftmaxOutput(name="softmax")])
        module = handler.get_module(iterator, random_layer_parameters=["conv2_weight"])
        found, kept = values(module), handler.network.parameters
        new = {
            "head_weight",
            "head_bias",
            "bn9_gamma",
            "bn9_beta",
            "bn9_moving_mean",
            "bn9_moving_var",
        }
        assert {*found} == {*kept} | new
        for name in {*kept} - {"conv2_weight"}:
            np.testing.assert_array_equal(found[name], kept[name])
        for name in ("head_bias", "bn9_beta", "bn9_moving_mean"):
            assert not found[name].any()
        for name in ("bn9_gamma", "bn9_moving_var"):
            assert (found[name] == 1).all()
        assert found["head_weight"].shape == (5, 2)
        for name, fans in {"head_weight": 5 + 2, "conv2_weight": (4 + 4) * 9}.items():
            limit = np.sqrt(6 / fans)
            assert 0.6 * limit < np.abs(found[name]).max() <= limit
            assert len(np.unique(found[name])) == found[name].size
        assert not np.array_equal(found["conv2_weight"], kept["conv2_weight"])

    def test_random_state(self, mx, handler, iterator):
        def draw(random_state):
            chosen = ["conv1_weight", "fc1_weight"]
            return values(handler.get_module(iterator, (), chosen, random_state=random_state))

        mx.random.seed(0)
        expected = mx.nd.random.uniform(shape=3).asnumpy()
        mx.random.seed(0)
        first, again, other = draw(3), draw(np.random.RandomState(3)), draw(4)
        np.testing.assert_array_equal(mx.nd.random.uniform(shape=3).asnumpy(), expected)
        for name in ("conv1_weight", "fc1_weight"):
            np.testing.assert_array_equal(first[name], again[name])
            assert not np.array_equal(first[name], other[name])

    def test_fixed_parameters_do_not_move_and_others_do(self, handler, iterator):
        fixed = handler.get_layer_parameters(["conv1", "bn1", "conv2"])
        module = handler.get_module(iterator, fixed_layer_parameters=fixed)
        before, after = values(module), train(module, iterator)
        assert "bn1_moving_mean" in fixed
        for name in before:
            assert np.array_equal(before[name], after[name]) == (name in fixed), name

    def test_statistics_move_where_the_layer_learns(self, handler, iterator):
        # In a process's first training, MXNet has been seen to leave all statistics as they were.
        train(handler.get_module(iterator), iterator)
        module = handler.get_module(iterator, fixed_layer_parameters=["bn1_gamma", "conv1_bias"])
        before, after = values(module), train(module, iterator)
        moved = {name for name in before if not np.array_equal(before[name], after[name])}
        assert {"bn1_beta", "bn1_moving_mean", "bn1_moving_var"} <= moved
        assert not {"bn1_gamma", "conv1_bias"} & moved

    def test_fixed_in_training_as_in_inference(self, mx, handler, images, iterator):
        """With all fixed, a training pass puts out what inference does, but for dropout."""
        handler.drop_layer_top(3)
        module = handler.get_module(iterator, fixed_layer_parameters=[*handler.network.parameters])
        module.forward(next(iterator), is_train=True)
        expected, _ = handler.get_layer_output(images[:7], ["flat"])
        found = module.get_outputs()[0].asnumpy()
        np.testing.assert_allclose(found, expected["flat"], rtol=1e-4, atol=1e-5)

    def test_hints(self, mx, iterator):
        def network(**odd):
            odd = mx.sym.var("odd", init=mx.init.Uniform(3), **odd)
            hidden = mx.sym.broadcast_mul(mx.sym.Flatten(mx.sym.var("data")), odd)
            weight = mx.sym.var("w", init=mx.init.Constant(0.25), lr_mult=0.0)
            hidden = mx.sym.FullyConnected(hidden, weight, num_hidden=3, name="fc")
            return mx.mod.Module(hidden, label_names=None)

        with pytest.raises(ModelError, match="do not determine the shape of odd"):
            ModelHandler(network()).get_module(iterator)
        handler = ModelHandler(network(shape=(1, 72)))
        handler.add_layer_top(mx.sym.SoftmaxOutput(name="softmax"))
        module = handler.get_module(iterator)
        found = values(module)
        assert (found["w"] == 0.25).all()
        assert 1.5 < np.abs(found["odd"]).max() < 3
        np.testing.assert_array_equal(values(handler.get_module(iterator))["odd"], found["odd"])
        after = train(module, iterator)
        np.testing.assert_array_equal(after["w"], found["w"])
        assert not np.array_equal(after["fc_bias"], found["fc_bias"])

    def test_generators_of_others_are_left_alone(self, mx, iterator):
        hidden = mx.sym.Flatten(mx.sym.var("data"))
        weight = mx.sym.var("w", init=mx.init.Normal(1))
        hidden = mx.sym.FullyConnected(hidden, weight, num_hidden=3, name="fc")
        handler = ModelHandler(mx.mod.Module(hidden, label_names=None))
        np.random.seed(0)
        expected = np.random.rand()
        np.random.seed(0)
        found = [values(handler.get_module(iterator, random_state=seed))["w"] for seed in (1, 1, 2)]
        assert np.random.rand() == expected
        np.testing.assert_array_equal(found[0], found[1])
        assert not np.array_equal(found[0], found[2])

    def test_labels_that_are_read(self, mx, images):
        """A loss made of operators needs its label, as inference would."""
        scores = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=1, name="fc")
        loss = mx.sym.square(mx.sym.Reshape(scores, shape=(-1,)) - mx.sym.var("my_label"))
        network = mx.mod.Module(mx.sym.make_loss(loss, name="loss"), label_names=["my_label"])
        handler = ModelHandler(network)
        difference = handler.get_layer_names_matching_type("elemwise_sub")
        assert handler.get_layer_parameters([*difference, "loss", "fc"]) == ["fc_weight", "fc_bias"]
        targets = mx.io.NDArrayIter(images, {"y": images.sum(axis=(1, 2, 3))}, 7)
        module = handler.get_module(targets)
        before = values(module)["fc_weight"]
        assert not np.array_equal(train(module, targets, rate=1e-3)["fc_weight"], before)

    def test_labels_by_the_name_of_the_network(self, mx, handler, images):
        iterator = mx.io.NDArrayIter({"pictures": images}, {"answers": np.arange(21) % 3}, 7)
        module = handler.get_module(iterator)
        assert (module.data_names, module.label_names) == (["data"], ["softmax_label"])
        before, after = values(module), train(module, iterator)
        assert not np.array_equal(before["fc1_weight"], after["fc1_weight"])

    def test_labels_that_the_module_did_not_name(self, mx, module, iterator):
        handler = ModelHandler(mx.mod.Module(module.symbol, label_names=None))
        assert handler.get_layer_parameters(["softmax"]) == []
        assert handler.get_module(iterator).label_names == ["softmax_label"]

    def test_what_nothing_reads(self, mx, module, images, iterator):
        """Files may hold nodes that no output needs; MXNet drops them."""
        dead = Node("null", "dead_weight"), Node("relu", "dead", {}, ((0, 0),))
        handler = ModelHandler(module)
        graph = handler.network.graph
        shifted = [
            Node(n.operator, n.name, n.attributes, tuple((k + 2, out) for k, out in n.inputs))
            for n in graph.nodes
        ]
        handler.update_sym(MxGraph((*dead, *shifted), ((graph.heads[0][0] + 2, 0),)))
        assert "dead" in handler.layer_names
        made = handler.get_module(iterator)
        assert {*values(made)} == {*values(module)}

    def test_without_labels(self, mx, handler, images):
        handler.drop_layer_top()
        module = handler.get_module(mx.io.NDArrayIter(images, None, 7))
        assert module.label_names == []
        module.forward(mx.io.DataBatch([mx.nd.array(images[:7])]), is_train=False)
        expected, _ = handler.get_layer_output(images[:7], ["fc1"])
        found = module.get_outputs()[0].asnumpy()
        np.testing.assert_allclose(found, expected["fc1"], rtol=1e-4, atol=1e-5)

    def test_devices(self, mx, module, iterator):
        made = ModelHandler(module, mx.cpu, 2).get_module(iterator)
        assert made._context == [mx.cpu(0), mx.cpu(1)]

    @pytest.mark.parametrize(
        ("ask", "error", "message"),
        [
            (
                lambda h, i: h.get_module(i, ["fc_weight"]),
                ValueError,
                "no parameter 'fc_weight'; nearest: fc1_w",
            ),
            (
                lambda h, i: h.get_module(i, None, ["data"]),
                ValueError,
                "no parameter 'data'; nearest",
            ),
            (
                lambda h, i: h.get_module(i, "fc1_bias"),
                TypeError,
                "list of names, got the string 'fc1_bias'",
            ),
            (
                lambda h, i: h.get_module(i, ["bn1_moving_mean"]),
                ModelError,
                "'bn1_moving_mean' is a running statistic of layer 'bn1' \\(BatchNorm\\)",
            ),
        ],
    )
    def test_parameters_that_there_are_not(self, handler, iterator, ask, error, message):
        with pytest.raises(error, match=message):
            ask(handler, iterator)

    @pytest.mark.parametrize(
        ("shape", "labels", "message"),
        [
            (
                (3, 6, 6),
                True,
                "'conv1_weight' has shape \\(4, 2, 3, 3\\), and data of shapes .* need "
                "\\(4, 3, 3, 3\\); to initialise it again, name it in random_layer_parameters",
            ),
            ((2,), True, "data of shapes {'data': \\(7, 2\\).*} do not fit the network"),
            (
                (2, 6, 6),
                False,
                "has the label 'softmax_label', and the labels of the iterator are none",
            ),
        ],
    )
    def test_data_that_do_not_fit(self, mx, handler, shape, labels, message):
        labels = np.zeros(21) if labels else None
        with pytest.raises(ModelError, match=message):
            handler.get_module(mx.io.NDArrayIter(np.zeros((21, *shape)), labels, 7))

    def test_a_parameter_that_does_not_fit_is_initialised_where_asked(self, mx, handler):
        iterator = mx.io.NDArrayIter(np.zeros((21, 3, 6, 6)), np.zeros(21), 7)
        module = handler.get_module(iterator, random_layer_parameters=["conv1_weight"])
        assert values(module)["conv1_weight"].shape == (4, 3, 3, 3)

    def test_names_that_do_not_tell(self, mx, iterator):
        scale = mx.sym.var("g", shape=(6,))
        scaled = mx.sym.broadcast_mul(mx.sym.var("data"), scale, name="scaled")
        handler = ModelHandler(mx.mod.Module(scaled, label_names=None))
        with pytest.raises(ModelError, match="parameter 'g' of shape \\(6,\\): end its name in"):
            handler.get_module(iterator)

    @pytest.mark.parametrize("name", ["cifar_resnet20_v1", "cifar_resnet20_v2"])
    def test_predicts_as_before(self, mx, shared, name):
        """In MXNet's own inference the second would get a third of these wrong."""
        with np.load(shared / "data" / "cifar10_test_1000.npz") as stored:
            images, labels = cifar_input(stored["x"][:60]), stored["y"][:60]
        handler = ModelHandler(load_module(mx, shared, name, 0, label_names=None))
        iterator = mx.io.NDArrayIter(images, None, 30)
        module = handler.get_module(iterator)
        scores = module.predict(iterator).asnumpy()
        expected, _ = handler.get_layer_output(images, handler.layer_names[-1:])
        np.testing.assert_allclose(scores, next(iter(expected.values())), rtol=1e-3, atol=1e-3)
        assert (scores.argmax(axis=1) == labels).mean() > 0.85


class TestGluon:
    def check(self, mx, block, *data):
        arrays = [mx.nd.array(one) for one in data]
        expected = block(*arrays)
        expected = expected if isinstance(expected, (list, tuple)) else [expected]
        names = [f"in{k}" for k in range(len(data))]
        handler = ModelHandler.from_gluon(block, names if len(data) > 1 else names[0])
        heads = [handler.network.graph.nodes[head].name for head, _ in handler.network.graph.heads]
        found, labels = handler.get_layer_output(dict(zip(names, data)), heads)
        assert labels is None
        for array, one in zip(found.values(), expected):
            one = one.asnumpy().reshape(len(array), -1)
            np.testing.assert_allclose(array, one, rtol=1e-3, atol=1e-4)
        assert len(found) == len(expected)
        return handler

    def test_blocks(self, mx):
        nn = mx.gluon.nn
        block = nn.HybridSequential(prefix="net_")
        with block.name_scope():
            block.add(nn.Conv2D(3, 3), nn.BatchNorm(), nn.Activation("relu"), nn.Dense(4))
        block.initialize(mx.init.Normal(0.5))
        data = np.random.RandomState(0).rand(5, 2, 6, 6).astype(np.float32)
        handler = self.check(mx, block, data)
        assert {*handler.network.parameters} == {*block.collect_params()}
        observed = {"net_batchnorm0_running_mean", "net_batchnorm0_running_var"}
        assert {*handler.aux_params} == observed
        assert not observed & {*handler.arg_params}
        assert handler.data_name == "in0"
        handler.drop_layer_bottom()
        assert handler.get_layer_type(handler.layer_names[0]) == "BatchNorm"

    def test_residual_networks(self, mx):
        block = mx.gluon.model_zoo.vision.ResNetV2(
            mx.gluon.model_zoo.vision.BasicBlockV2, [1, 1], [4, 4, 8], classes=5, thumbnail=True
        )
        block.initialize(mx.init.Xavier())
        self.check(mx, block, np.random.RandomState(0).rand(3, 3, 16, 16).astype(np.float32))

    def test_several_inputs_and_outputs(self, mx):
        class Both(mx.gluon.HybridBlock):
            def __init__(self):
                super().__init__()
                with self.name_scope():
                    self.dense = mx.gluon.nn.Dense(3, in_units=4)

            def hybrid_forward(self, F, first, second):
                hidden = self.dense(first)
                return hidden, [F.tanh(hidden + second)]

        block = Both()
        block.initialize(mx.init.Normal(0.5))
        random = np.random.RandomState(0)
        first, second = random.rand(5, 4).astype(np.float32), random.rand(5, 3).astype(np.float32)
        handler = ModelHandler.from_gluon(block, ["a", "b"])
        assert handler.network.input_names == ["a", "b"]
        names = [handler.network.graph.nodes[head].name for head, _ in handler.network.graph.heads]
        found, _ = handler.get_layer_output({"a": first, "b": second}, names)
        hidden, (end,) = block(mx.nd.array(first), mx.nd.array(second))
        np.testing.assert_allclose(found[names[0]], hidden.asnumpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[names[1]], end.asnumpy(), rtol=1e-4, atol=1e-6)
        with pytest.raises(ModelError, match="there are 2 outputs"):
            handler.drop_layer_top()
        with pytest.raises(
            ValueError, match="makes no graph of 1 inputs \\(data\\); data_names should"
        ):
            ModelHandler.from_gluon(block)

    def test_blocks_without_values(self, mx):
        block = mx.gluon.nn.Dense(3, prefix="dense_")
        with pytest.raises(ValueError, match="'dense_weight' of the block has no values yet"):
            ModelHandler.from_gluon(block)
        block.initialize()
        with pytest.raises(ValueError, match="run one batch through it"):
            ModelHandler.from_gluon(block)
        with pytest.raises(TypeError, match="allowed is an mxnet.gluon.HybridBlock"):
            ModelHandler.from_gluon(mx.gluon.nn.Sequential())
