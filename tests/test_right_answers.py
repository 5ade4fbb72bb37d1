"""Situations of public bug reports: the right numbers, or an error that says what to do."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.preprocessing import FunctionTransformer

import xfer
from xfer.sources.data import open_data

X = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)


def lengths(texts):
    """Stand for a tokenizer: two numbers for each text."""
    return np.array([[len(text), text.count("a")] for text in texts], np.float32)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def texts_source(torch):
    return xfer.open_source(torch.nn.Linear(2, 3), inputs=lengths)


class TestMask:
    """The mask of masked_mean comes from the input with the ids, whatever the order."""

    IDS = np.array([[3, 5, 0, 0], [2, 4, 6, 0]])

    @pytest.fixture
    def network(self, torch):
        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.words = torch.nn.Embedding(10, 3, padding_idx=0)
                self.kinds = torch.nn.Embedding(10, 3)
                self.both = torch.nn.Identity()

            def forward(self, kinds, ids, table):
                extra = table.sum(1)[:, None, None].float()
                return self.both(self.words(ids) + self.kinds(kinds) + extra)

        torch.manual_seed(0)
        return Network()

    def expected(self, source, data):
        tokens = source.extract(data, "both")["both"]
        mask = (self.IDS != 0)[:, :, None]
        return (tokens * mask).sum(1) / mask.sum(1)

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
    def test_of_torch_is_that_of_the_padded_embedding(self, network, order):
        given = [("kinds", np.zeros((2, 4), int)), ("ids", self.IDS), ("table", np.ones((2, 4)))]
        data = dict(given[index] for index in order)
        source = xfer.open_source(network)
        found = source.extract(data, "both", pooling="masked_mean")["both"]
        np.testing.assert_allclose(found, self.expected(source, data), rtol=1e-6)

    def test_is_asked_for_where_several_inputs_may_hold_the_ids(self, torch):
        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(4, 2)

            def forward(self, first, second):
                return (first + second)[:, :, None] * torch.ones(3)

        source = xfer.open_source(Network(), padding_id=0)
        data = {"first": self.IDS, "second": self.IDS}
        found = source.extract(data, "output", pooling="channels_first_mean").matrix
        assert found.shape == (2, 4)
        with pytest.raises(ValueError, match=r"word ids \(first, second\).* attention_mask"):
            source.extract(data, "output", pooling="masked_mean")

    @pytest.mark.parametrize("order", [("ids", "table"), ("table", "ids")])
    def test_of_onnx_is_that_of_the_embedding(self, order):
        onnx = pytest.importorskip("onnx")
        from onnx import TensorProto, helper

        table = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
        graph = helper.make_graph(
            [
                helper.make_node("Gather", ["words", "ids"], ["tokens"]),
                helper.make_node("ReduceSum", ["table"], ["sum"], keepdims=1),
                helper.make_node("Unsqueeze", ["table", "axes"], ["wide"]),
                helper.make_node("Add", ["tokens", "wide"], ["both"]),
            ],
            "g",
            [
                helper.make_tensor_value_info("table", TensorProto.FLOAT, ["n", 4]),
                helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 4]),
            ],
            [helper.make_tensor_value_info("both", TensorProto.FLOAT, ["n", 4, 3])],
            [
                onnx.numpy_helper.from_array(table, "words"),
                onnx.numpy_helper.from_array(np.array([2]), "axes"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        source = xfer.open_source(model, padding_id=0)
        data = {"ids": self.IDS, "table": np.ones((2, 4), np.float32)}
        data = {name: data[name] for name in order}
        found = source.extract(data, "both", pooling="masked_mean")["both"]
        np.testing.assert_allclose(found, self.expected(source, data), rtol=1e-6)

    def test_the_first_token_is_not_padding_on_the_left(self, torch):
        table = torch.nn.Embedding(10, 3, padding_idx=0)
        ids = np.array([[0, 0, 5, 3], [2, 4, 6, 0]])
        source = xfer.open_source(table)
        found = source.extract(ids, "output", pooling="first_token").matrix
        np.testing.assert_array_equal(found, table.weight.detach().numpy()[[5, 2]])


class TestPooling:
    """Maps are pooled over their positions, wherever their channels are."""

    IMAGES = np.random.default_rng(0).normal(size=(5, 3, 12, 12)).astype(np.float32)

    @pytest.fixture
    def swin(self, torch):
        class Block(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = torch.nn.LayerNorm(16)
                self.layer = torch.nn.Linear(16, 16)
                self.act = torch.nn.GELU()

            def forward(self, x):
                return x + self.act(self.layer(self.norm(x)))

        class Permute(torch.nn.Module):
            def forward(self, x):
                return x.permute(0, 2, 3, 1)

        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 16, 2, 2), Permute(), Block()).eval()

    @pytest.mark.parametrize("pooling", ["mean", "max", "mean+max"])
    @pytest.mark.parametrize("layer", ["0", "1", "2", "2.layer", "2.act"])
    def test_torch_modules_tell_the_axis(self, swin, layer, pooling):
        source = xfer.open_source(swin)
        maps = source.extract(self.IMAGES, layer)[layer]
        axes = (2, 3) if layer == "0" else (1, 2)
        parts = [getattr(maps, how)(axis=axes) for how in pooling.split("+")]
        features = xfer.LayerFeatures(source, layer, pooling=pooling).fit()
        found = features.transform(self.IMAGES)
        np.testing.assert_allclose(found, np.concatenate(parts, 1), rtol=1e-5, atol=1e-6)
        assert len(features.get_feature_names_out()) == found.shape[1]
        fresh = xfer.LayerFeatures(source, layer, pooling=pooling).fit()
        assert len(fresh.get_feature_names_out()) == found.shape[1]

    def test_tokens_of_a_transformer(self, torch):
        encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        tokens = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
        source = xfer.open_source(encoder)
        whole = source.extract(tokens, "output")["output"]
        found = source.extract(tokens, "output", pooling="mean").matrix
        np.testing.assert_allclose(found, whole.mean(1), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("shape", [(24, 20, 9), (37, 19)])
    def test_an_axis_that_nothing_tells_is_asked_for(self, torch, shape):
        source = xfer.open_source(torch.nn.Identity())
        data = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
        with pytest.warns(UserWarning, match="use the pooling 'channels_last_mean'; otherwise"):
            found = source.extract(data, "output", pooling="mean").matrix
        rows = data.reshape(3, shape[0], -1)
        np.testing.assert_allclose(found, rows.mean(2), rtol=1e-5, atol=1e-6)
        first = source.extract(data, "output", pooling="channels_first_mean").matrix
        np.testing.assert_array_equal(first, found)
        last = source.extract(data, "output", pooling="channels_last_max").matrix
        np.testing.assert_array_equal(last, data.reshape(3, -1, shape[-1]).max(1))

    @pytest.mark.parametrize("source", ["onnx", "mxnet"])
    def test_graphs_tell_the_axis(self, source, tmp_path, mx):
        onnx = pytest.importorskip("onnx")
        helper = onnx.helper
        weights = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
        dense = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
        if source == "onnx":
            nodes = [
                helper.make_node("Conv", ["x", "w"], ["conv"]),
                helper.make_node("Relu", ["conv"], ["relu"]),
                helper.make_node("Transpose", ["relu"], ["turned"], perm=[0, 2, 3, 1]),
                helper.make_node("MatMul", ["turned", "d"], ["dense"]),
                helper.make_node("Transpose", ["dense"], ["back"], perm=[0, 3, 1, 2]),
            ]
            graph = helper.make_graph(
                nodes,
                "g",
                [helper.make_tensor_value_info("x", 1, ["n", 3, 12, 12])],
                [helper.make_tensor_value_info("back", 1, ["n", 6, 10, 10])],
                [
                    onnx.numpy_helper.from_array(weights, "w"),
                    onnx.numpy_helper.from_array(dense, "d"),
                ],
            )
            opsets = [helper.make_opsetid("", 17)]
            opened = xfer.open_source(helper.make_model(graph, ir_version=8, opset_imports=opsets))
        else:
            x = mx.sym.var("data")
            x = mx.sym.Convolution(x, num_filter=8, kernel=(3, 3), no_bias=True, name="conv")
            x = mx.sym.Activation(x, act_type="relu", name="relu")
            x = mx.sym.transpose(x, axes=(0, 2, 3, 1), name="turned")
            x = mx.sym.FullyConnected(x, num_hidden=6, flatten=False, no_bias=True, name="dense")
            x = mx.sym.transpose(x, axes=(0, 3, 1, 2), name="back")
            given = {"conv_weight": mx.nd.array(weights), "dense_weight": mx.nd.array(dense.T)}
            mx.model.save_checkpoint(str(tmp_path / "net"), 0, x, given, {})
            opened = xfer.load_checkpoint(tmp_path / "net")
        for layer in ("conv", "relu", "turned", "dense", "back"):
            maps = opened.extract(self.IMAGES, layer)[layer]
            axes = (1, 2) if layer in ("turned", "dense") else (2, 3)
            found = opened.extract(self.IMAGES, layer, pooling="mean").matrix
            np.testing.assert_allclose(found, maps.mean(axes), rtol=1e-4, atol=1e-5, err_msg=layer)


class TestTexts:
    """An iterable of texts is a list of examples, and not one of batches of letters."""

    TEXTS = ("an apple", "a", "banana bread", "kiwi", "fig")

    @pytest.mark.parametrize("how", ["generator", "map", "dict keys"])
    def test_any_iterable_of_texts_is_a_list_of_examples(self, texts_source, how):
        expected = texts_source.extract(list(self.TEXTS), "output").matrix
        data = {
            "generator": (text for text in self.TEXTS),
            "map": map(str, self.TEXTS),
            "dict keys": dict.fromkeys(self.TEXTS).keys(),
        }[how]
        found = texts_source.extract(data, "output", batch_size=2).matrix
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_an_open_file_is_read_by_lines(self, texts_source, tmp_path):
        path = tmp_path / "texts"
        path.write_text("\n".join(self.TEXTS))
        with open(path) as file:
            assert texts_source.extract(file, "output").matrix.shape == (5, 3)

    @pytest.mark.parametrize("labels", [[0, 1, 0, 1, 0], list("abcde")])
    def test_pairs_are_refused_with_advice(self, texts_source, labels):
        with pytest.raises(ValueError, match="one example and its label: give all examples as one"):
            texts_source.extract(zip(self.TEXTS, labels), "output")

    def test_batches_of_texts_are_still_batches(self, texts_source):
        expected = texts_source.extract(list(self.TEXTS), "output").matrix
        batches = [(list(self.TEXTS[:2]), [0, 1]), (self.TEXTS[2:], np.array([2, 3, 4]))]
        found = texts_source.extract(iter(batches), "output")
        np.testing.assert_allclose(found.matrix, expected, rtol=1e-6)
        assert found.labels.tolist() == [0, 1, 2, 3, 4]
        batches = iter([list(self.TEXTS[:2]), list(self.TEXTS[2:])])
        np.testing.assert_allclose(texts_source.extract(batches, "output").matrix, expected)


class TestIntegers:
    """Integers reach a torch network as it takes them."""

    IDS = np.array([[3, 5, 0], [2, 4, 6]])

    @pytest.mark.parametrize("how", ["embedding", "one_hot", "index"])
    def test_a_network_that_takes_no_floats_is_given_integers(self, torch, how):
        table = torch.randn(9, 4)
        compute = {
            "embedding": lambda ids: torch.nn.functional.embedding(ids, table),
            "one_hot": lambda ids: torch.nn.functional.one_hot(ids, 9).float() @ table,
            "index": lambda ids: table[ids],
        }[how]

        class Network(torch.nn.Module):
            def forward(self, ids):
                return compute(ids).sum(1)

        source = xfer.open_source(Network())
        expected = compute(torch.from_numpy(self.IDS)).sum(1).numpy()
        for _ in range(2):
            found = source.extract(self.IDS, "output", batch_size=1).matrix
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def test_an_option_says_it(self, torch):
        from xfer.sources.torch import TorchSource

        class Halved(torch.nn.Module):
            def forward(self, x):
                return x / 2 if x.is_floating_point() else x * 10

        data = np.array([[2, 4]])
        for keep, expected in ((None, 20), (False, 1), (True, 20)):
            source = TorchSource(Halved(), keep_integers=keep)
            assert source.extract(data, "output").matrix[0, 0] == expected

    def test_pixels_become_floats_and_errors_stay_those_of_floats(self, torch):
        source = xfer.open_source(torch.nn.Conv2d(3, 2, 3))
        images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
        found = source.extract(images, "output").matrix
        np.testing.assert_array_equal(found, source.extract(images / 1.0, "output").matrix)
        with pytest.raises(ValueError, match="to have 3 channels, but got 4"):
            xfer.open_source(torch.nn.Conv2d(3, 2, 3)).extract(np.ones((2, 4, 8, 8), int), "output")

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_only_layers_that_can_be_had_are_listed(self, torch):
        network = torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.Sequential(torch.nn.ReLU()))
        some = torch.ones(2, 6)
        script = torch.jit.script(network)
        free = {"input": {0: torch.export.Dim("n")}}
        exported = torch.export.export(network, (some,), dynamic_shapes=free).module()
        traced = torch.fx.symbolic_trace(network)
        inside = torch.nn.Sequential(torch.nn.Linear(6, 6), script)
        for module in (script, torch.jit.trace(network, some), traced, exported, inside):
            source = xfer.open_source(module)
            names = [name for name in source.layer_names if name != "_guards_fn"]
            assert "output" in names
            assert source.extract(X, names).matrix.shape[0] == len(X)
        assert xfer.open_source(inside).layer_names == ["0", "output"]
        assert xfer.open_source(traced).layer_names == ["0", "1.0", "output"]


class TestLoaders:
    def test_an_iterable_dataset_has_no_length(self, torch):
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(torch.from_numpy(X))

        loader = torch.utils.data.DataLoader(Stream(), batch_size=5)
        source = xfer.open_source(torch.nn.Linear(6, 3))
        found = source.extract(loader, "output").matrix
        np.testing.assert_allclose(found, source.extract(X, "output").matrix, rtol=1e-5, atol=1e-6)

    def test_the_sampler_is_counted_and_not_the_dataset(self, torch):
        class Large(torch.utils.data.Dataset):
            def __len__(self):
                return 10**11

            def __getitem__(self, index):
                return torch.full((6,), float(index))

        samplers = torch.utils.data
        few = samplers.SubsetRandomSampler([3, 5, 9])
        loader = samplers.DataLoader(Large(), batch_size=2, sampler=few)
        assert open_data(loader).n_examples == 3
        found = xfer.open_source(torch.nn.Identity()).extract(loader, "output").matrix
        assert sorted(found[:, 0]) == [3, 5, 9]
        batches = samplers.DataLoader(Large(), batch_sampler=[[1, 2], [3]])
        found = xfer.open_source(torch.nn.Identity()).extract(batches, "output").matrix
        assert found[:, 0].tolist() == [1, 2, 3]


class TestTables:
    @pytest.fixture
    def source(self, torch):
        return xfer.open_source(torch.nn.Linear(2, 2))

    @pytest.mark.parametrize("kind", ["nullable", "bool", "object", "integers"])
    def test_columns_of_any_numbers(self, source, kind):
        pandas = pytest.importorskip("pandas")
        table = pandas.DataFrame({"a": [1.0, 2.0, 0.0], "b": [1.0, 0.0, 1.0]})
        expected = source.extract(table.to_numpy(), "output").matrix
        given = {
            "nullable": table.convert_dtypes(),
            "bool": table.assign(b=[True, False, True]),
            "object": table.astype(object),
            "integers": table.astype({"b": "Int64"}),
        }[kind]
        np.testing.assert_array_equal(source.extract(given, "output").matrix, expected)

    def test_a_missing_value_is_named(self, source):
        pandas = pytest.importorskip("pandas")
        table = pandas.DataFrame({"a": [1.0, 2.0], "b": pandas.array([1, None], "Int64")})
        with pytest.raises(ValueError, match="<NA>"):
            source.extract(table, "output")
        with pytest.raises(ValueError, match="of object, such as 'red'"):
            source.extract(pandas.DataFrame({"a": [1.0, 2.0], "b": ["red", "blue"]}), "output")

    def test_lists_of_tensors(self, source, torch):
        rows = torch.arange(6.0).reshape(3, 2)
        expected = source.extract(rows.numpy(), "output").matrix
        np.testing.assert_array_equal(source.extract(list(rows), "output").matrix, expected)

    def test_lists_of_mxnet_arrays(self, source, mx):
        rows = np.arange(6, dtype=np.float32).reshape(3, 2)
        expected = source.extract(rows, "output").matrix
        found = source.extract([mx.nd.array(row) for row in rows], "output").matrix
        np.testing.assert_array_equal(found, expected)
        labels = mx.nd.array([0, 1, 0])
        assert xfer.LrRepurposer(source, "output").fit(rows, labels).classes_.tolist() == [0, 1]

    def test_masked_values_are_refused(self, source):
        masked = np.ma.masked_array([[1.0, 2.0], [3.0, 4.0]], mask=[[0, 1], [0, 0]])
        for data in (masked, {"input": masked}):
            with pytest.raises(ValueError, match="have masked values: fill them"):
                source.extract(data, "output")
        labels = np.ma.masked_array([0, 1, 0], mask=[0, 1, 0])
        with pytest.raises(ValueError, match="have masked values"):
            xfer.LrRepurposer(source, "output").fit(np.eye(2)[[0, 1, 0]], labels)
        whole = np.ma.masked_array([[1.0, 2.0]], mask=False)
        assert source.extract(whole, "output").matrix.shape == (1, 2)

    @pytest.mark.parametrize("kind", ["Int64", "boolean", "objects", "tensors"])
    def test_labels_keep_their_type(self, source, torch, kind):
        pandas = pytest.importorskip("pandas")
        labels, classes = {
            "Int64": (pandas.Series([3, 1, 3, 1], dtype="Int64"), [1, 3]),
            "boolean": (pandas.Series([True, False] * 2, dtype="boolean"), [False, True]),
            "objects": (np.array([3, 1, 3, 1], object), [1, 3]),
            "tensors": ([torch.tensor(label) for label in (3, 1, 3, 1)], [1, 3]),
        }[kind]
        fitted = xfer.LrRepurposer(source, "output").fit(np.eye(2)[[0, 1, 0, 1]], labels)
        assert fitted.classes_.tolist() == classes
        assert fitted.classes_.dtype.kind == ("b" if kind == "boolean" else "i")

    @pytest.mark.parametrize("dtype", [object, "string"])
    def test_missing_labels_are_told_by_their_place(self, source, dtype):
        pandas = pytest.importorskip("pandas")
        labels = pandas.Series(["a", "b", None, "b"], dtype=dtype)
        with pytest.raises(ValueError, match="labels hold (None|<NA>) at example 2; leave out"):
            xfer.LrRepurposer(source, "output").fit(np.eye(2)[[0, 1, 0, 1]], labels)


class TestOnnx:
    def test_a_class_of_values_that_is_no_array_says_what_to_do(self):
        helper = pytest.importorskip("onnx").helper
        node = helper.make_node(
            "ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]
        )
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", 1, ["n", 2])],
            [pytest.importorskip("onnx").ValueInfoProto(name="y")],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
        model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
        with pytest.raises(ValueError, match="gives list, not an array: .* zipmap=False"):
            xfer.open_source(model).extract(np.ones((3, 2)), "y")

    def test_numbers_that_float32_cannot_hold_are_refused(self):
        helper = pytest.importorskip("onnx").helper
        double = 11
        graph = helper.make_graph(
            [helper.make_node("Mul", ["x", "x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", double, ["n", 2])],
            [helper.make_tensor_value_info("y", double, ["n", 2])],
        )
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
        with pytest.raises(ValueError, match="NaN or infinity .* beyond 32-bit floats"):
            xfer.open_source(model).extract(np.full((2, 2), 1e25), "y")

    def test_dynamic_quantization_sees_one_example_at_a_time(self):
        onnx = pytest.importorskip("onnx")
        helper = onnx.helper
        weights = np.random.default_rng(1).integers(-100, 100, (6, 4)).astype(np.int8)
        graph = helper.make_graph(
            [
                helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
                helper.make_node("MatMulInteger", ["q", "w", "zero"], ["sum"]),
                helper.make_node("Cast", ["sum"], ["float"], to=1),
                helper.make_node("Mul", ["float", "scale"], ["y"]),
            ],
            "g",
            [helper.make_tensor_value_info("x", 1, ["n", 6])],
            [helper.make_tensor_value_info("y", 1, ["n", 4])],
            [onnx.numpy_helper.from_array(weights, "w")],
        )
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
        source = xfer.open_source(model)
        alone = source.extract(X, "y").matrix
        outlier = np.concatenate([X, np.full((1, 6), 1000, np.float32)])
        np.testing.assert_array_equal(source.extract(outlier, "y").matrix[:-1], alone)

    def test_values_may_be_links_into_the_folder_of_the_network_itself(self, tmp_path):
        onnx = pytest.importorskip("onnx")
        weights = np.random.default_rng(0).normal(size=(6, 300)).astype(np.float32)
        helper = onnx.helper
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, ["n", 6])],
            [helper.make_tensor_value_info("y", 1, ["n", 300])],
            [onnx.numpy_helper.from_array(weights, "w")],
        )
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
        made, snapshot, blobs = tmp_path / "made", tmp_path / "snapshots" / "1", tmp_path / "blobs"
        for folder in (made, snapshot, blobs):
            folder.mkdir(parents=True)
        onnx.save(model, made / "m.onnx", save_as_external_data=True, location="m.data")
        for name, blob in (("m.onnx", "abc"), ("m.data", "def")):
            (made / name).rename(blobs / blob)
            (snapshot / name).symlink_to(blobs / blob)
        found = xfer.open_source(snapshot / "m.onnx").extract(X, "y").matrix
        np.testing.assert_allclose(found, X @ weights, rtol=1e-4, atol=1e-5)
        (snapshot / "m.data").unlink()
        (tmp_path / "elsewhere").write_bytes((blobs / "def").read_bytes())
        (snapshot / "m.data").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match="outside its folder"):
            xfer.open_source(snapshot / "m.onnx")


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("kind", ["block", "module"])
def test_mxnet_networks_of_other_precisions(mx, dtype, kind):
    from mxnet.gluon import nn

    net = nn.HybridSequential()
    net.add(nn.Dense(4, in_units=6, activation="relu"), nn.BatchNorm(in_channels=4))
    net.initialize()
    expected = net(mx.nd.array(X)).asnumpy()
    net.cast(dtype)
    source = xfer.open_source(net)
    if kind == "module":
        symbol = net(mx.sym.var("data"))
        parameters = {n: p.data() for n, p in net.collect_params().items()}
        auxiliary = {n: parameters.pop(n) for n in symbol.list_auxiliary_states()}
        module = mx.mod.Module(symbol, label_names=None)
        module.bind([mx.io.DataDesc("data", (12, 6), dtype)], for_training=False)
        module.set_params(parameters, auxiliary)
        source = xfer.open_source(module)
    found = source.extract(X, source.layer_names[-1]).matrix
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def test_raw_examples_of_a_transformer_are_not_touched(texts_source):
    """A function of a list is given a list, also in a pipeline."""
    texts = list(TestTexts.TEXTS)
    features = xfer.LayerFeatures(texts_source, "output")
    same = FunctionTransformer().fit_transform(texts)
    np.testing.assert_array_equal(features.fit_transform(same), features.fit_transform(texts))


class TestBatchAxis:
    """Networks with the examples on another axis, and layers with several rows of each."""

    DATA = np.random.default_rng(0).normal(size=(6, 7, 3)).astype(np.float32)  # examples first

    @pytest.fixture
    def recurrent(self, mx):
        from mxnet.gluon import nn, rnn

        mx.random.seed(0)
        net = nn.HybridSequential()
        net.add(rnn.LSTM(5, input_size=3), nn.Dense(4, flatten=False, in_units=5))
        net.initialize(mx.init.Xavier())
        net.hybridize()
        expected = net(mx.nd.array(self.DATA.transpose(1, 0, 2))).asnumpy()
        return net, expected.transpose(1, 0, 2)

    @pytest.mark.parametrize("kind", ["checkpoint", "block", "mxnet"])
    @pytest.mark.parametrize("axis", [1, {"data": 1}])
    def test_a_time_major_network_is_right_in_any_batches(self, recurrent, kind, axis, tmp_path):
        net, expected = recurrent
        net.export(str(tmp_path / "tnc"))
        if kind == "checkpoint":
            source = xfer.load_checkpoint(tmp_path / "tnc", batch_axis=axis)
        else:
            engine = "auto" if kind == "block" else "mxnet"
            source = xfer.open_source(net, batch_axis=axis, engine=engine)
        last = source.layer_names[-1]
        for size in (6, 4, 1):
            found = source.extract(self.DATA, last, batch_size=size)[last]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        state = next(name for name in source.layer_names if name.endswith("_state_output"))
        assert source.extract(self.DATA, state)[state].shape == (6, 1, 5)
        assert {layer.name: layer.shape for layer in source.layers}[last] == (7, 4)

    def test_without_the_axis_it_is_refused_with_advice(self, recurrent, tmp_path):
        recurrent[0].export(str(tmp_path / "tnc"))
        source = xfer.load_checkpoint(tmp_path / "tnc")
        with pytest.raises(ValueError, match="different features .* batch_axis=1"):
            source.extract(self.DATA, source.layer_names[-1])

    def test_the_axis_is_saved_and_part_of_the_network(self, recurrent, tmp_path):
        recurrent[0].export(str(tmp_path / "tnc"))
        source, other = (xfer.load_checkpoint(tmp_path / "tnc", batch_axis=a) for a in (1, 0))
        last = source.layer_names[-1]
        assert source.fingerprint([last]) != other.fingerprint([last])
        repurposer = xfer.LrRepurposer(source, last).fit(self.DATA, [0, 1, 2] * 2)
        repurposer.save_repurposer("saved", tmp_path)
        found = xfer.load("saved", tmp_path).predict_proba(self.DATA)
        np.testing.assert_array_equal(found, repurposer.predict_proba(self.DATA))

    @pytest.mark.parametrize(
        ("axis", "message"),
        [
            ({"date": 1}, "names date, but the inputs are data"),
            (-1, "must be an integer >= 0"),
            (4, "must be < 4, the axes of input 'data', got 4"),
        ],
    )
    def test_wrong_axes_are_refused(self, axis, message):
        with pytest.raises(ValueError, match=message):
            xfer.load_checkpoint(xfer.example.checkpoint(), batch_axis=axis)

    def test_an_axis_that_the_data_lack_is_refused(self, recurrent, tmp_path):
        recurrent[0].export(str(tmp_path / "tnc"))
        source = xfer.load_checkpoint(tmp_path / "tnc", batch_axis=1)
        with pytest.raises(ValueError, match="must be < 1, the axes of input 'data', got 1"):
            source.extract(self.DATA[:, 0, 0], source.layer_names[-1])

    def test_other_networks_have_none(self, torch):
        with pytest.raises(ValueError, match="is for MXNet networks, not for TorchSource"):
            xfer.open_source(torch.nn.Identity(), batch_axis=1)

    def test_examples_on_another_axis_or_in_several_rows_come_first(self, mx, tmp_path):
        data = mx.sym.var("data")
        turned = mx.sym.transpose(data, axes=(1, 0, 2), name="turned")
        rows = mx.sym.reshape(data, shape=(-3, 0), name="rows")
        dense = mx.sym.FullyConnected(rows, num_hidden=2, no_bias=True, name="dense")
        mixed = mx.sym.reshape(turned, shape=(-3, 0), name="mixed")
        weight = mx.nd.array(np.arange(6.0).reshape(2, 3))
        symbol = mx.sym.Group([turned, dense, mixed])
        mx.model.save_checkpoint(str(tmp_path / "net"), 0, symbol, {"dense_weight": weight}, {})
        source = xfer.load_checkpoint(tmp_path / "net")
        np.testing.assert_array_equal(source.extract(self.DATA, "turned")["turned"], self.DATA)
        np.testing.assert_array_equal(source.extract(self.DATA, "rows")["rows"], self.DATA)
        found = source.extract(self.DATA, "dense", batch_size=4)["dense"]
        np.testing.assert_allclose(found, self.DATA @ weight.asnumpy().T, rtol=1e-5, atol=1e-6)
        shapes = {layer.name: layer.shape for layer in source.layers}
        assert shapes == {"turned": (7, 3), "rows": (7, 3), "dense": (7, 2), "mixed": (7, 3)}
        with pytest.raises(ValueError, match="different features in another batch"):
            source.extract(self.DATA, "mixed")  # its rows are ordered by time first


def test_layers_of_one_name_are_told_apart(mx, tmp_path):
    first = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, name="dense")
    relu = mx.sym.Activation(first, act_type="relu", name="relu")
    again = mx.sym.Activation(relu - 0.5, act_type="relu", name="relu")
    rng = np.random.default_rng(0)
    given = {"dense_weight": rng.normal(size=(4, 6)), "dense_bias": rng.normal(size=4)}
    arrays = {name: mx.nd.array(array) for name, array in given.items()}
    mx.model.save_checkpoint(str(tmp_path / "net"), 0, again, arrays, {})
    source = xfer.load_checkpoint(tmp_path / "net")
    assert [name for name in source.layer_names if "relu" in name] == ["relu:0", "relu:1"]
    both = source.extract(X, ["relu:0", "relu:1"])
    dense = (X @ given["dense_weight"].T + given["dense_bias"]).clip(0)
    np.testing.assert_allclose(both["relu:0"], dense, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(both["relu:1"], (dense - 0.5).clip(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="2 layers named 'relu': ask for one of relu:0, relu:1"):
        source.extract(X, "relu")
    from xfer.cli import main

    main(["convert", str(tmp_path / "net"), "0", str(tmp_path / "net.onnx"), "--layer", "relu:0"])
    found = xfer.open_source(tmp_path / "net.onnx").extract(X, "relu:0")["relu:0"]
    np.testing.assert_allclose(found, both["relu:0"], atol=1e-6)


class TestMnistIter:
    """MNISTIter does not say how many examples there are, and drops what fills no batch."""

    @pytest.fixture
    def make(self, mx, tmp_path):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (100, 28, 28)).astype(np.uint8)
        labels = rng.integers(0, 3, 100).astype(np.uint8)
        header = np.array([2051, 100, 28, 28], ">i4").tobytes()
        (tmp_path / "images").write_bytes(header + self.images.tobytes())
        (tmp_path / "labels").write_bytes(np.array([2049, 100], ">i4").tobytes() + labels.tobytes())
        files = {"image": str(tmp_path / "images"), "label": str(tmp_path / "labels")}
        return lambda size: mx.io.MNISTIter(batch_size=size, shuffle=False, silent=True, **files)

    @pytest.fixture
    def source(self, torch):
        return xfer.open_source(torch.nn.Flatten())

    def test_it_asks_for_the_number(self, make, source):
        with pytest.raises(ValueError, match="Set its num_data to the number of examples"):
            source.extract(make(16), "output")

    def test_the_number_is_enough_and_what_is_missing_is_said(self, make, source):
        iterator = make(16)
        iterator.num_data = 100
        expected = self.images.reshape(100, -1) / np.float32(256)
        for _ in range(2):
            with pytest.warns(UserWarning, match="leaves out the last 4 of its 100 .* divides 100"):
                found = source.extract(iterator, "output").matrix
            np.testing.assert_allclose(found, expected[:96], atol=1e-6)
        iterator = make(10)
        iterator.num_data = 100
        found = source.extract(iterator, "output").matrix
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_a_wrong_number_is_still_refused(self, make, source):
        iterator = make(16)
        iterator.num_data = 200
        with pytest.raises(ValueError, match="gave 96 examples, but its num_data is 200"):
            source.extract(iterator, "output")


def test_a_function_of_one_example_is_called_for_each(torch):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)

    def of_one(image):
        assert isinstance(image, np.ndarray), f"Unexpected type {type(image)}"
        return image.transpose(2, 0, 1).astype(np.float32) / 255

    def of_all(some):
        return np.stack([of_one(image) for image in some])

    network = torch.nn.Conv2d(3, 2, 3)
    found, expected = (
        xfer.open_source(network, preprocess=function).extract(list(images), "output").matrix
        for function in (of_one, of_all)
    )
    np.testing.assert_array_equal(found, expected)
    source = xfer.open_source(network, preprocess=of_one)
    with pytest.raises(AssertionError, match="Unexpected type <class 'list'>"):
        source.extract(["a.png"], "output")


def test_pictures_of_mixed_sizes_are_told_with_their_sizes(torch):
    source = xfer.open_source(torch.nn.Conv2d(3, 2, 3))
    images = [np.zeros((3, 8, 8)), np.zeros((3, 9, 8))]
    for data in (images, [torch.from_numpy(image) for image in images], {"input": images}):
        with pytest.raises(
            ValueError, match=r"one shape, got \(3, 8, 8\), \(3, 9, 8\): resize them"
        ):
            source.extract(data, "output")


class TestOtherData:
    """Data that are not like those of the fit are refused, or lead to a warning."""

    @pytest.fixture
    def fitted(self):
        images, digits = xfer.example.digits()
        source = xfer.load_checkpoint(xfer.example.checkpoint())
        return xfer.LrRepurposer(source, "relu2", pooling="max").fit(images[:50], digits[:50])

    @pytest.mark.parametrize("loaded", [False, True])
    def test_another_scale_of_pixels_is_told_once(self, fitted, loaded, tmp_path, recwarn):
        images = xfer.example.digits()[0]
        if loaded:
            fitted.save_repurposer("saved", tmp_path)
            fitted = xfer.load("saved", tmp_path)
        fitted.predict(images[50:])
        fitted.predict(images[50:51] * 0)  # a black picture is no other scale
        assert not recwarn.list
        with pytest.warns(UserWarning, match="'data' has numbers from 0 to 255, but 0 to 1 in"):
            fitted.predict(images[50:] * 255)
        fitted.predict(images[50:] * 255)
        assert len(recwarn.list) == 0
        with pytest.warns(UserWarning, match="from 0 to 6.5e\\+04"):
            fitted.predict(images[50:] * 65025)

    def test_smaller_numbers_too(self):
        images, digits = xfer.example.digits()
        source = xfer.load_checkpoint(xfer.example.checkpoint())
        fitted = xfer.LrRepurposer(source, "relu2", pooling="max").fit(
            images[:50] * 255, digits[:50]
        )
        with pytest.warns(UserWarning, match="are the data scaled in the same way"):
            fitted.predict_proba(images[50:])

    @pytest.mark.parametrize("loaded", [False, True])
    def test_examples_of_another_size_are_told_by_their_features(self, torch, loaded, tmp_path):
        source = xfer.open_source(torch.nn.Conv2d(1, 2, 3))
        images, digits = xfer.example.digits()
        fitted = xfer.LrRepurposer(source, "output").fit(images[:50], digits[:50])
        if loaded:
            fitted.save_repurposer("saved", tmp_path, save_source_model=False)
            fitted = xfer.load("saved", tmp_path, source_model=source)
        message = r"shape \(2, 10, 14\), but \(2, 14, 14\) in fit"
        with pytest.raises(ValueError, match=message):
            fitted.predict(images[50:, :, 4:])


@pytest.mark.parametrize(
    ("name", "advice"),
    [("device", r"network.to\(device\)"), ("batch_size", "source.batch_size = 8")],
)
def test_parameters_that_others_have_are_answered(name, advice):
    message = rf"LrRepurposer.__init__\(\) got an unexpected keyword argument '{name}'; .*{advice}"
    with pytest.raises(TypeError, match=message):
        xfer.LrRepurposer(None, "layer", **{name: 1})


def test_a_generator_of_pictures_is_a_list_of_examples(torch):
    pytest.importorskip("PIL")
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3)).astype(np.uint8)
    source = xfer.open_source(torch.nn.Conv2d(3, 2, 3), inputs=xfer.ImageInputs(9))
    expected = source.extract(list(images), "output").matrix
    for data in (iter(images), iter([images[:4], images[4:]]), iter([list(images)])):
        np.testing.assert_array_equal(source.extract(data, "output").matrix, expected)
    with pytest.raises(ValueError, match="one example and its label"):
        source.extract(zip(images, range(6)), "output")


def test_names_and_prefixes_of_networks_are_answered_with_the_next_step():
    with pytest.raises(
        TypeError, match="'resnet18': there is no such .*load it with its own library"
    ):
        xfer.open_source("resnet18")
    prefix = xfer.example.checkpoint()
    with pytest.raises(
        TypeError, match="is the prefix of a checkpoint: open it with xfer.load_check"
    ):
        xfer.open_source(prefix)


def test_of_many_layers_the_nearest_are_named(torch):
    network = torch.nn.Sequential(*(torch.nn.ReLU() for _ in range(30)))
    with pytest.raises(ValueError, match="no layer 'conv'; nearest: "):
        xfer.open_source(network).find_layers("conv")


def test_forgotten_inputs_and_one_path_are_answered(torch, tmp_path):
    source = xfer.open_source(torch.nn.Conv2d(3, 2, 3))
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for data in (paths, list(map(str, paths))):
        with pytest.raises(ValueError, match="open the network with inputs: xfer.ImageInputs"):
            source.extract(data, "output")
    with pytest.raises(TypeError, match="must be a list of examples, got str: 'pics'"):
        xfer.LrRepurposer(source, "output").fit("pics", [0, 1, 0, 1])
    with pytest.raises(ValueError, match="give X as an array or a list"):
        xfer.LrRepurposer(source, "output").fit(tmp_path.glob("*.png"), [0, 1])


def test_a_params_file_as_a_prefix_is_answered():
    with pytest.raises(ValueError, match="give the prefix and the epoch of .* apart: '.*net', 10"):
        xfer.load_checkpoint("folder/net-0010.params")


class TestThreads:
    """Threads may share a source: each gets the features of its own examples and layer."""

    @pytest.mark.parametrize("engine", ["onnxruntime", "mxnet"])
    def test_share_a_source(self, mx, engine):
        source = xfer.load_checkpoint(xfer.example.checkpoint(), engine=engine)
        images = xfer.example.digits()[0][:40]
        layers = ["relu1", "relu2", "relu3", "pool1"]
        expected = [source.extract(images, layer).matrix for layer in layers]
        for _ in range(3):
            fresh = xfer.load_checkpoint(xfer.example.checkpoint(), engine=engine)
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(fresh.extract, [images] * 20, layers * 5))
            for features, right in zip(found, expected * 5):
                np.testing.assert_allclose(features.matrix, right, rtol=0, atol=1e-5)


class TestChannels:
    """Widths that equal a size of some layer by chance are not taken for channels."""

    def pooled(self, torch, network, shape, layer):
        data = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
        source = xfer.open_source(network.eval())
        maps = source.extract(data, layer)[layer]
        return source.extract(data, layer, pooling="mean").matrix, maps

    def test_of_an_inception_block(self, torch):
        class Block(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = torch.nn.Conv2d(3, 16, 1), torch.nn.Conv2d(3, 32, 1)
                self.cat, self.head = torch.nn.Identity(), torch.nn.Linear(48, 10)

            def forward(self, x):
                return self.head(self.cat(torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3)))

        found, maps = self.pooled(torch, Block(), (3, 10, 10), "cat")
        np.testing.assert_allclose(found, maps.mean((2, 3)), rtol=1e-4, atol=1e-5)

    def test_of_a_squeeze(self, torch):
        class Squeeze(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.down, self.up = torch.nn.Linear(24, 7), torch.nn.Linear(7, 24)

            def forward(self, x):
                return x * self.up(self.down(x.mean((2, 3)))).sigmoid()[:, :, None, None]

        network = torch.nn.Sequential(torch.nn.Conv2d(3, 24, 1), Squeeze())
        for shape in ((3, 7, 7), (3, 8, 7)):
            found, maps = self.pooled(torch, network, shape, "1")
            np.testing.assert_allclose(found, maps.mean((2, 3)), rtol=1e-4, atol=1e-5)

    def test_of_what_nothing_tells(self, torch):
        network = torch.nn.Sequential(
            torch.nn.Conv1d(3, 8, 1), torch.nn.GLU(1), torch.nn.Flatten(), torch.nn.Linear(20, 5)
        )
        with pytest.warns(UserWarning, match="channels_first_mean"):
            found, maps = self.pooled(torch, network, (3, 5), "1")
        np.testing.assert_allclose(found, maps.mean(2), rtol=1e-4, atol=1e-5)

    def test_of_weights_times_values(self):
        helper = pytest.importorskip("onnx").helper
        numpy_helper = pytest.importorskip("onnx").numpy_helper
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["w", "x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, ["n", 4, 7])],
            [helper.make_tensor_value_info("y", 1, ["n", 5, 7])],
            [numpy_helper.from_array(np.ones((5, 4), np.float32), "w")],
        )
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
        data = np.random.default_rng(0).normal(size=(3, 4, 7)).astype(np.float32)
        with pytest.warns(UserWarning, match="channels_first_mean"):
            found = xfer.open_source(model).extract(data, "y", pooling="mean").matrix
        assert found.shape == (3, 5)

    def test_of_maps_that_are_not_square(self, torch):
        network = torch.nn.Sequential(
            *(torch.nn.Conv2d(1, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2, (1, 2))),
            *(torch.nn.Dropout2d(), torch.nn.AdaptiveAvgPool2d((2, 4))),
            *(torch.nn.Flatten(), torch.nn.Linear(512, 50)),
        )
        for layer in ("1", "2", "3", "4"):
            found, maps = self.pooled(torch, network, (1, 64, 100), layer)
            np.testing.assert_allclose(found, maps.mean((2, 3)), rtol=1e-4, atol=1e-5)


class TestSameFeatures:
    """Features of an example do not depend on the others, in any column, inputs included."""

    def test_one_large_column_hides_nothing(self, torch):
        class Mixing(torch.nn.Module):
            def forward(self, x):
                return torch.cat([1000 * x, x - x.mean(0)], 1)

        with pytest.raises(ValueError, match="different features in another batch"):
            xfer.open_source(Mixing()).extract(X, "output")

    def test_what_makes_the_inputs_is_checked_too(self, torch):
        def whole_batch(images):
            return (np.asarray(images) - np.mean(images)) / np.std(images)

        source = xfer.open_source(torch.nn.Linear(6, 3), preprocess=whole_batch)
        with pytest.raises(ValueError, match="different features in another batch"):
            source.extract(list(X), "output")

    def test_dynamically_quantized_torch(self, torch):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch moves this to another package
            quantized = torch.ao.quantization.quantize_dynamic(network.eval(), {torch.nn.Linear})
        source = xfer.open_source(quantized)
        alone = source.extract(X, "output").matrix
        outlier = np.concatenate([X, np.full((1, 6), 1000, np.float32)])
        np.testing.assert_array_equal(source.extract(outlier, "output").matrix[:-1], alone)

    def test_integers_that_the_network_scales_itself(self, torch):
        class Scaling(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = torch.nn.Conv2d(3, 2, 3)

            def forward(self, x):
                return self.conv(x if x.is_floating_point() else x.float() / 255)

        network = Scaling()
        images = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8)).astype(np.uint8)
        expected = network(torch.from_numpy(images)).detach().numpy()
        found = xfer.open_source(network).extract(images, "output")["output"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


class TestMasksOfNetworks:
    """Masks as networks take them: added to scores, of four dimensions, or marking the padding."""

    @pytest.mark.parametrize("kind", ["added", "four dimensions", "key padding", "booleans"])
    def test_all_say_the_same(self, torch, kind):
        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.words = torch.nn.Embedding(10, 3)

        name = "src_key_padding_mask" if kind == "key padding" else "attention_mask"
        namespace = {}
        exec(f"def forward(self, ids, {name}):\n    return self.words(ids)", namespace)
        Network.forward = namespace["forward"]
        network = Network()
        ids = np.array([[3, 5, 0, 0], [2, 4, 6, 0]])
        kept = ids != 0
        mask = {
            "added": np.where(kept, 0.0, -1e4).astype(np.float32),
            "four dimensions": kept[:, None, None].astype(np.float32),
            "key padding": ~kept,
            "booleans": kept,
        }[kind]
        source = xfer.open_source(network)
        found = source.extract({"ids": ids, name: mask}, "output", pooling="masked_mean").matrix
        table = network.words.weight.detach().numpy()
        expected = (table[ids] * kept[:, :, None]).sum(1) / kept.sum(1, keepdims=True)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        if kind == "added":  # and where nothing is padding
            none = {"ids": ids, name: np.zeros_like(mask)}
            found = source.extract(none, "output", pooling="masked_mean").matrix
            np.testing.assert_allclose(found, table[ids].mean(1), rtol=1e-5, atol=1e-6)

    def test_a_mask_of_unknown_meaning_is_refused(self, torch):
        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.words = torch.nn.Embedding(10, 3)

            def forward(self, token_ids, padding_mask):
                return self.words(token_ids)

        data = {"token_ids": np.ones((2, 4), int), "padding_mask": np.ones((2, 4), int)}
        with pytest.raises(ValueError, match="'padding_mask' may mark padding or tokens"):
            xfer.open_source(Network()).extract(data, "output", pooling="masked_mean")

    def test_words_are_told_from_their_types_by_the_larger_table(self, torch):
        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.words, self.kinds = torch.nn.Embedding(30, 3), torch.nn.Embedding(2, 3)

            def forward(self, kinds, ids):
                return self.words(ids) + self.kinds(kinds)

        ids = np.array([[3, 5, 0, 0], [2, 4, 6, 0]])
        source = xfer.open_source(Network(), padding_id=0)
        data = {"kinds": np.zeros_like(ids), "ids": ids}
        tokens, kept = source.extract(data, "output")["output"], (ids != 0)[:, :, None]
        found = source.extract(data, "output", pooling="masked_mean").matrix
        np.testing.assert_allclose(found, (tokens * kept).sum(1) / kept.sum(1), rtol=1e-5)


class TestMoreData:
    def test_lists_of_numbers_are_no_batch(self, torch):
        source = xfer.open_source(torch.nn.Linear(3, 2))
        with pytest.raises(ValueError, match="may be rows, or inputs and labels: make it an array"):
            source.extract(iter([[[1, 2, 3], [4, 5, 6]]]), "output")
        rows = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
        pairs = iter([[rows[:2], [0, 1]], [rows[2:], [2]]])
        assert source.extract(pairs, "output").labels.tolist() == [0, 1, 2]
        several = iter([[rows[:2], [[0, 1], [1, 1]]]])
        assert source.extract(several, "output").labels.tolist() == [[0, 1], [1, 1]]

    def test_one_picture_is_no_list(self, torch):
        pytest.importorskip("PIL")
        source = xfer.open_source(torch.nn.Conv2d(3, 2, 3), inputs=xfer.ImageInputs(8))
        with pytest.raises(
            TypeError, match=r"must be a list of examples, got one of shape \(20, 20"
        ):
            source.extract(np.zeros((20, 20, 3), np.uint8), "output")

    def test_datasets_need_a_loader(self, torch):
        data = torch.utils.data.TensorDataset(torch.ones(4, 3))
        with pytest.raises(
            TypeError, match="wrap the TensorDataset in a torch.utils.data.DataLoader"
        ):
            xfer.open_source(torch.nn.Linear(3, 2)).extract(data, "output")

    def test_lists_of_masked_rows(self, torch):
        row = np.ma.masked_array([1.0, 2.0, 3.0], mask=[0, 1, 0])
        with pytest.raises(ValueError, match="masked values"):
            xfer.open_source(torch.nn.Linear(3, 2)).extract([row, row], "output")

    def test_a_table_of_booleans(self, torch):
        source = xfer.open_source(torch.nn.Linear(3, 2))
        rows = np.array([[True, False, True], [False, True, True]])
        expected = source.extract(rows.astype(float), "output").matrix
        np.testing.assert_array_equal(source.extract(rows, "output").matrix, expected)

    def test_booleans_for_a_network_that_takes_them(self, torch):
        class Negated(torch.nn.Module):
            def forward(self, x):
                return (~x).float()

        rows = np.array([[True, False, True], [False, True, True]])
        found = xfer.open_source(Negated()).extract(rows, "output").matrix
        np.testing.assert_array_equal(found, ~rows)

    def test_examples_that_can_be_read_once(self, torch):
        files = [[io.BytesIO(row.tobytes())] for row in X]
        source = xfer.open_source(
            torch.nn.Linear(6, 3),
            preprocess=lambda some: [np.frombuffer(one.read(), np.float32) for (one,) in some],
        )
        expected = xfer.open_source(source.module).extract(X, "output").matrix
        np.testing.assert_allclose(source.extract(files, "output").matrix, expected, rtol=1e-5)

    def test_weights_may_be_tensors(self, torch):
        source = xfer.open_source(torch.nn.Linear(6, 3))
        labels, weights = [0, 1, 2] * 4, np.arange(1.0, 13)
        found, expected = (
            xfer.LrRepurposer(source, "output").fit(X, labels, sample_weight=given).predict_proba(X)
            for given in (torch.from_numpy(weights), weights)
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("engine", ["onnxruntime", "mxnet"])
def test_infinity_in_a_padding_layer_is_no_fault_of_the_network(mx, tmp_path, engine):
    x = mx.sym.var("data")
    pads = {"mode": "constant", "pad_width": (0, 0, 0, 0, 1, 1, 1, 1)}
    x = mx.sym.Pad(x, constant_value=-float("inf"), name="pad", **pads)
    x = mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pool_type="max", name="pool")
    mx.model.save_checkpoint(str(tmp_path / "net"), 0, x, {"unused": mx.nd.ones((1,))}, {})
    source = xfer.load_checkpoint(tmp_path / "net", engine=engine)
    images = np.random.default_rng(0).normal(size=(3, 2, 8, 8)).astype(np.float32)
    assert source.extract(images, "pool").matrix.shape == (3, 32)
    with pytest.raises(
        ValueError, match="such as -inf: .* on purpose, as padding does: then use a"
    ):
        source.extract(images, "pad")
