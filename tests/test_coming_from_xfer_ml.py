"""What users of xfer-ml, the earlier library, write: it works, or the error says how."""

import json
import shutil
from collections import OrderedDict

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

import xfer
from xfer.cli import main
from xfer.model_handler import ModelHandler


class Neighbours(xfer.MetaModelRepurposer):
    """A custom repurposer, as one extended xfer-ml."""

    def __init__(self, source_model, feature_layer_names, context_function=None, num_devices=1):
        options = {"context_function": context_function, "num_devices": num_devices}
        super().__init__(source_model, feature_layer_names, **options)

    def _train_model_from_features(self, features, labels, feature_indices_per_layer):
        assert feature_indices_per_layer.keys() == {*self.feature_layer_names}
        last = feature_indices_per_layer[self.feature_layer_names[-1]]
        assert last[-1] == features.shape[1] - 1
        return KNeighborsClassifier(1, algorithm="brute").fit(features, labels)

    def _predict_probability_from_features(self, features):
        return 0.5 + self.target_model.predict_proba(features) / 2

    def _predict_label_from_features(self, features):
        return -self.target_model.predict(features)


class Table(Neighbours):
    """Its model is not a scikit-learn classifier."""

    def _train_model_from_features(self, features, labels, feature_indices_per_layer):
        return OrderedDict(zip(map(bytes, features), labels))

    def _predict_label_from_features(self, features):
        return np.array([self.target_model[bytes(row)] for row in features])


@pytest.fixture
def source():
    """The example's network: conv1 ... relu2 ... pool3, fc1, softmax."""
    return xfer.load_checkpoint(xfer.example.checkpoint())


@pytest.fixture(scope="module")
def new_digits():
    """Fifty images of the digits 5 to 9, and their labels."""
    images, digits = xfer.example.digits()
    chosen = np.flatnonzero(digits >= 5)[:50]
    return images[chosen], digits[chosen]


class TestModelHandler:
    def test_arguments_have_their_old_names_too(self, mx, source, new_digits):
        handler = ModelHandler(source)
        layer = mx.sym.Activation(act_type="relu", name="top")
        features = handler.get_layer_output(new_digits[0], ["relu2"])[0]["relu2"]
        with pytest.warns(DeprecationWarning, match="get_layer_output: data_iterator .* iterator"):
            found, _ = handler.get_layer_output(data_iterator=new_digits[0], layer_names=["relu2"])
        np.testing.assert_array_equal(found["relu2"], features)
        with pytest.warns(DeprecationWarning, match="get_layer_type: layer_name .* name"):
            assert handler.get_layer_type(layer_name="relu2") == "Activation"
        with pytest.warns(DeprecationWarning, match="num_layers_to_drop of xfer-ml is now n$"):
            handler.drop_layer_top(num_layers_to_drop=2)
        with pytest.warns(DeprecationWarning, match="num_layers_to_drop of xfer-ml is now n$"):
            handler.drop_layer_bottom(num_layers_to_drop=1)
        with pytest.warns(DeprecationWarning, match="add_layer_top: layer_list .* symbols"):
            handler.add_layer_top(layer_list=[layer])
        with pytest.warns(DeprecationWarning, match="add_layer_bottom: layer_list .* symbols"):
            handler.add_layer_bottom(layer_list=[mx.sym.Flatten(name="bottom")])
        with pytest.warns(DeprecationWarning, match="update_sym: new_symbol .* symbol"):
            handler.update_sym(new_symbol=handler.symbol.get_internals()["pool2_output"])
        assert handler.layer_names[0] == "bottom" and handler.layer_names[-1] == "pool2"

    def test_parameters_are_read_only(self, source):
        handler = ModelHandler(source)
        before = {name: array.copy() for name, array in source.network.arguments.items()}
        with pytest.raises(TypeError, match="does not support item assignment"):
            handler.arg_params["fc1_bias"] = 0
        with pytest.raises(ValueError, match="read-only"):
            handler.arg_params["fc1_bias"][:] = 0
        np.testing.assert_equal(source.network.arguments, before)

    def test_a_checkpoint_for_mxnet(self, mx, module, images, tmp_path):
        handler = ModelHandler(module)
        handler.drop_layer_top(2)
        handler.save_checkpoint(tmp_path / "cut", 3)
        symbol, arguments, auxiliary = mx.model.load_checkpoint(str(tmp_path / "cut"), 3)
        loaded = mx.mod.Module(symbol, label_names=None)
        loaded.bind([("data", images.shape)], for_training=False)
        loaded.set_params(arguments, auxiliary)
        expected, _ = handler.get_layer_output(images, ["dropout0"])
        found = loaded.predict(mx.io.NDArrayIter(images, batch_size=len(images))).asnumpy()
        np.testing.assert_allclose(found, expected["dropout0"], rtol=1e-4, atol=1e-6)
        handler.add_layer_top(mx.sym.FullyConnected(num_hidden=2, name="new"))
        with pytest.raises(xfer.ModelError, match="'new_weight' has no values yet"):
            handler.save_checkpoint(tmp_path / "cut", 4)

    def test_a_dropped_layer_is_called_so(self, source, new_digits):
        handler = ModelHandler(source)
        handler.drop_layer_top(2)
        for ask in (
            lambda: handler.get_layer_type("fc1"),
            lambda: handler.get_layer_parameters(["fc1"]),
            lambda: handler.get_layer_output(new_digits[0], ["fc1"]),
        ):
            with pytest.raises(xfer.ModelError, match="'fc1' was dropped; remaining layers: conv1"):
                ask()


class TestRepurposers:
    def test_hooks_of_a_subclass(self, mx, source, new_digits, tmp_path):
        images, digits = new_digits
        repurposer = clone(Neighbours(source, ["relu2", "pool3"])).fit(images, digits)
        np.testing.assert_array_equal(repurposer.classes_, [5, 6, 7, 8, 9])
        np.testing.assert_array_equal(repurposer.predict(images), -digits)
        np.testing.assert_array_equal(repurposer.predict_proba(images).max(axis=1), 1)
        iterator = mx.io.NDArrayIter(images, digits, 20)
        assert repurposer.score(images, -digits) == 1 and repurposer.score(iterator) == 0
        loaded = xfer.load(repurposer.save_repurposer("neighbours", tmp_path))
        np.testing.assert_array_equal(loaded.predict_label(iterator), -digits)
        with pytest.raises(ValueError, match="does not accept sample_weight"):
            repurposer.fit(images, digits, sample_weight=digits)

    def test_hooks_and_a_model_of_any_kind(self, source, new_digits):
        repurposer = Table(source, ["relu2"]).fit(*new_digits)
        np.testing.assert_array_equal(repurposer.classes_, [5, 6, 7, 8, 9])
        assert repurposer.score(*new_digits) == 1
        assert not hasattr(repurposer, "decision_function")

    def test_devices_are_given_by_name(self, mx, source, new_digits):
        repurposer = xfer.MetaModelRepurposer(source, ["relu2"], mx.cpu)
        message = r"meta_model must be .*, got <function cpu .*by name, as context_function=mx.gpu"
        with pytest.raises(TypeError, match=message):
            repurposer.fit(*new_digits)
        message = r"^LrRepurposer.* too many .*; give parameters after feature_layer_names by name"
        with pytest.raises(TypeError, match=message):
            xfer.LrRepurposer(source, ["relu2"], mx.cpu, 1)
        with pytest.raises(TypeError, match="meta_model is missing: give a scikit-learn estimator"):
            xfer.MetaModelRepurposer(source, ["relu2"]).fit(*new_digits)

    @pytest.mark.parametrize("kind", [Neighbours, xfer.NeuralNetworkRandomFreezeRepurposer])
    def test_the_class_that_was_called_is_named(self, source, kind):
        with pytest.raises(TypeError, match=rf"^{kind.__name__}\.__init__\(\) got an unexpected"):
            kind(source, ["relu2"], c=3)

    def test_a_prior_of_another_scale(self, source, new_digits):
        message = r"sigma=100\.0 makes .* of a weight \(default 100\); here .* of a unit's input"
        with pytest.warns(UserWarning, match=message):
            xfer.BnnRepurposer(source, "relu2", pooling="max", sigma=100.0).fit(*new_digits)


class TestTrainedNetworks:
    @pytest.mark.parametrize("options", [{}, {"class_weight": "balanced"}])
    @pytest.mark.parametrize(
        ("kind", "layer"),
        [
            (xfer.NeuralNetworkFineTuneRepurposer, ["pool3"]),
            (xfer.NeuralNetworkRandomFreezeRepurposer, []),
        ],
    )
    def test_more_outputs_than_classes(
        self, mx, source, new_digits, kind, layer, options, tmp_path
    ):
        repurposer = kind(source, *layer, target_class_count=26, num_epochs=2, **options)
        repurposer.repurpose(mx.io.NDArrayIter(*new_digits, 10))  # labels 5 to 9, as floats
        np.testing.assert_array_equal(repurposer.classes_, np.arange(26))
        probabilities = repurposer.predict_proba(new_digits[0])
        assert probabilities.shape == (50, 26)
        assert probabilities[:, 5:10].sum(axis=1).min() > 0.9
        assert repurposer.score(*new_digits) > 0.8
        loaded = xfer.load(repurposer.save_repurposer("digits", tmp_path))
        np.testing.assert_array_equal(loaded.predict_proba(new_digits[0]), probabilities)

    @pytest.mark.parametrize(
        ("labels", "count"), [(["a", "b"], 3), ([-1, 2], 3), ([1, 3], 3), ([0, 1], 2.5)]
    )
    def test_only_integers_from_0_leave_outputs_unused(self, mx, source, new_digits, labels, count):
        labels = np.resize(labels, len(new_digits[0]))
        repurposer = xfer.NeuralNetworkFineTuneRepurposer(source, "pool3", count)
        with pytest.raises(ValueError, match=f"target_class_count is {count}, .* 2 classes"):
            repurposer.fit(new_digits[0], labels)

    def test_a_frozen_layer_that_is_dropped(self, mx, source, new_digits):
        repurposer = xfer.NeuralNetworkRandomFreezeRepurposer(source, 5, ["conv1", "fc1"])
        with pytest.raises(ValueError, match="'fc1', which num_layers_to_drop drops"):
            repurposer.fit(*new_digits)

    def test_a_module_of_ones_own(self):
        with pytest.raises(TypeError, match=r"Mine defines _create_target_module.*ModelHandler"):

            class Mine(xfer.NeuralNetworkFineTuneRepurposer):
                def _create_target_module(self, train_iterator):
                    return None


def write_json(path, kind, model=None, **parameters):
    """Write what xfer-ml wrote: the parameters and the attributes of scikit-learn's classifier."""
    saved = {"repurposer_class": kind, "version": "1.2.0", "parameters": parameters}
    saved["parameters"] |= {"context_function": "cpu", "num_devices": 1}
    if model is not None:
        attributes = {
            name: [str(value.dtype), value.tolist()]
            if isinstance(value, np.ndarray)
            else ["tuple", list(value)]
            if isinstance(value, tuple)
            else value
            for name, value in vars(model).items()
            if name.endswith("_") or name.startswith("_")
        }
        inner = {"parameters": model.get_params(), "attributes": attributes}
        saved["target_model"] = {"model": inner}
    path.write_text(json.dumps(saved))


class TestSaved:
    @pytest.fixture
    def columns(self, source, new_digits):
        """Two of five digits, or all: rows, and features of two layers."""
        return xfer.LayerFeatures(source, ["pool3", "fc1"]).fit_transform(new_digits[0])

    @pytest.mark.parametrize("classes", [2, 5])
    @pytest.mark.parametrize("with_source", [True, False])
    def test_logistic_regression(self, source, new_digits, columns, tmp_path, classes, with_source):
        rows = new_digits[1] < 5 + classes
        model = LogisticRegression(fit_intercept=False, max_iter=9999).fit(
            columns[rows], new_digits[1][rows]
        )
        layers = ["pool3", "fc1"]
        write_json(tmp_path / "old.json", "LrRepurposer", model, feature_layer_names=layers, c=1.0)
        if with_source:
            for part in ("symbol.json", "0000.params"):
                shutil.copy(f"{xfer.example.checkpoint()}-{part}", tmp_path / f"old_source-{part}")
        loaded = xfer.load("old", tmp_path, None if with_source else source)
        assert type(loaded) is xfer.LrRepurposer and loaded.feature_layer_names == layers
        scores = columns @ model.coef_.T  # of two classes, xfer-ml saved those of one
        scores = np.hstack([-scores, scores]) if classes == 2 else scores
        expected = softmax(scores, axis=1)
        np.testing.assert_allclose(loaded.predict_proba(new_digits[0]), expected, atol=1e-6)
        again = xfer.load(loaded.save_repurposer("new", tmp_path))
        np.testing.assert_allclose(again.predict_proba(new_digits[0]), expected, atol=1e-6)

    @pytest.mark.parametrize("classes", [2, 5])
    @pytest.mark.parametrize("kernel", ["linear", "rbf"])
    def test_support_vector_machines(self, source, new_digits, columns, tmp_path, classes, kernel):
        rows = new_digits[1] < 5 + classes
        model = SVC(kernel=kernel, gamma="auto").fit(columns[rows], new_digits[1][rows])
        layers = ["pool3", "fc1"]
        write_json(tmp_path / "old.json", "SvmRepurposer", model, feature_layer_names=layers)
        loaded = xfer.load("old", tmp_path, source)
        np.testing.assert_array_equal(loaded.predict(new_digits[0]), model.predict(columns))
        np.testing.assert_allclose(
            loaded.decision_function(new_digits[0]), model.decision_function(columns), atol=1e-5
        )
        assert not hasattr(loaded, "predict_proba")
        again = xfer.load(loaded.save_repurposer("new", tmp_path))
        np.testing.assert_array_equal(again.predict(new_digits[0]), model.predict(columns))

    def test_trained_networks(self, source, new_digits, tmp_path):
        handler = ModelHandler(source)
        handler.save_checkpoint(tmp_path / "old")
        options = {"fixed_layers": ["conv1"], "random_layers": [], "num_layers_to_drop": 2}
        options |= {"target_class_count": 5, "optimizer": "sgd", "optimizer_params": None}
        kind = "NeuralNetworkRandomFreezeRepurposer"
        write_json(tmp_path / "old.json", kind, **options, batch_size=64, num_epochs=5)
        loaded = xfer.load("old", tmp_path)
        assert type(loaded).__name__ == kind and loaded.num_epochs == 5
        expected, _ = handler.get_layer_output(new_digits[0], ["softmax"])
        found = loaded.predict_proba(new_digits[0])
        np.testing.assert_allclose(found, expected["softmax"], atol=1e-6)
        assert set(loaded.predict(new_digits[0])) <= {0, 1, 2, 3, 4}
        again = xfer.load(loaded.save_repurposer("new", tmp_path))
        np.testing.assert_array_equal(again.predict_proba(new_digits[0]), found)
        write_json(tmp_path / "old.json", kind, **options | {"target_class_count": 3 * 10**8})
        with pytest.raises(ValueError, match="its 300000000 classes are not the 5 outputs of its"):
            xfer.load("old", tmp_path)

    def test_what_cannot_be_read(self, source, columns, new_digits, tmp_path):
        with pytest.raises(FileNotFoundError, match="no saved repurposer .*old.xfer"):
            xfer.load("old", tmp_path)
        path = tmp_path / "old.json"
        write_json(path, "GpRepurposer", feature_layer_names=["fc1"])
        with pytest.raises(ValueError, match=r"old.json .*a GpRepurposer .*, only LrR.* fit it ag"):
            xfer.load("old", tmp_path)
        model = SVC(kernel="linear").fit(columns, new_digits[1])
        write_json(path, "SvmRepurposer", model, feature_layer_names=["fc1"])
        with pytest.raises(ValueError, match="saved it without its network: give the network"):
            xfer.load("old", tmp_path)
        model._n_support = 3 * model._n_support
        write_json(path, "SvmRepurposer", model, feature_layer_names=["fc1"])
        with pytest.raises(ValueError, match="_n_support of its SVC must be >= 0 and sum to 35"):
            xfer.load("old", tmp_path, source)
        path.write_text("{}")
        with pytest.raises(ValueError, match=r"not a file of xfer-ml, and there is no old.xfer"):
            xfer.load("old", tmp_path)


class TestCommandLine:
    def run(self, path, capsys):
        status = main(["layers", str(path)])
        return status, "".join(capsys.readouterr())

    def test_files_of_other_kinds(self, source, new_digits, tmp_path, capsys):
        repurposer = xfer.LrRepurposer(source, "relu2", pooling="max").fit(*new_digits)
        path = repurposer.save_repurposer("digits", tmp_path)
        for one in (path, f"{xfer.example.checkpoint()}-0000.params"):
            status, told = self.run(one, capsys)
            assert status == 0 and "relu2    Activation      (32, ?, ?)" in told
        (tmp_path / "w.pt").touch()
        status, told = self.run(tmp_path / "w.pt", capsys)
        assert status == 1 and "w.pt is a PyTorch file" in told
        assert self.run(tmp_path / "no.xfer", capsys)[1].startswith("xfer: there is no saved repu")

    def test_a_folder(self, source, tmp_path, capsys):
        assert self.run(tmp_path, capsys) == (
            1,
            f"xfer: {tmp_path} is a folder without a checkpoint\n",
        )
        ModelHandler(source).save_checkpoint(tmp_path / "net")
        status, told = self.run(tmp_path, capsys)
        assert status == 1 and f"is a folder; name a checkpoint in it: {tmp_path}/net\n" in told
