"""A repurposer as one ONNX file gives what the repurposer gives, to 1e-5."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import cifar_input
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.multiclass import OneVsOneClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import xfer
from xfer.meta import CalibratedSvm

CALIBRATED_PIPELINE = make_pipeline(StandardScaler(), CalibratedSvm())
ALL = ["label", "probabilities", "total", "aleatoric", "epistemic", "novelty"]
HEADS = {
    "lr": (xfer.LrRepurposer, {}),
    "svm": (xfer.SvmRepurposer, {}),
    **{f"svm {k}": (xfer.SvmRepurposer, {"kernel": k}) for k in ("linear", "poly", "sigmoid")},
    "gp": (xfer.GpRepurposer, {}),
    "gp of unit rows": (xfer.GpRepurposer, {"apply_l2_norm": True, "class_prior": "balanced"}),
    "bnn": (xfer.BnnRepurposer, {"num_epochs": 20}),
    "bnn of two layers": (xfer.BnnRepurposer, {"num_epochs": 20, "num_layers": 2, "n_hidden": 5}),
}


@pytest.fixture(scope="module")
def task():
    """The example network, some digits with names for labels, and others."""
    images, digits = xfer.example.digits()
    names = np.array(["zero", "one", "two", "three", "a four", "five", "six", "7", "acht", "九"])
    kept = digits >= 5
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    return source, images[kept][:60], names[digits[kept]][:60], images[kept][60:90]


def run(path, inputs, outputs=None):
    """Run a file by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = inputs if isinstance(inputs, dict) else {session.get_inputs()[0].name: inputs}
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, given)))


def assert_same(repurposer, path, X, given=None):
    """Compare all outputs of a file, for a batch and for one example."""
    for rows in (slice(None), slice(4, 5)):
        part = {n: a[rows] for n, a in X.items()} if isinstance(X, dict) else X[rows]
        found = run(path, part if given is None else given[rows])
        expected = {"label": repurposer.predict(part)}
        if "probabilities" in found:
            expected["probabilities"] = repurposer.predict_proba(part)
        if "total" in found:
            expected.update(repurposer.predict_uncertainty(part)._asdict())
        if "novelty" in found:
            expected["novelty"] = repurposer.novelty(part)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if name == "label":
                np.testing.assert_array_equal(found[name], value)
            else:
                np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_every_head(task, tmp_path, head):
    source, images, names, others = task
    kind, options = HEADS[head]
    repurposer = kind(source, ["relu1", "relu2"], pooling="mean+max", **options)
    repurposer.fit(images, names)
    outputs = ALL if hasattr(repurposer, "novelty") else ALL[:2]
    path = repurposer.to_onnx(tmp_path / "a.onnx", outputs=outputs)
    assert_same(repurposer, path, others)
    onnx.checker.check_model(str(path), full_check=True)


def test_a_gaussian_process_with_inducing_points(task, tmp_path, monkeypatch):
    monkeypatch.setattr("xfer.meta.gaussian_process._EXACT_ROWS", 20)
    monkeypatch.setattr("xfer.meta.gaussian_process._INDUCING_POINTS", 10)
    source, images, names, others = task
    repurposer = xfer.GpRepurposer(source, "relu2", pooling="max").fit(images, names)
    assert len(repurposer.meta_model_.roots_) == 2
    assert_same(repurposer, repurposer.to_onnx(tmp_path / "a.onnx", outputs=ALL), others)


@pytest.mark.parametrize("with_pool", [False, True])
def test_a_mixture(task, tmp_path, with_pool):
    source, images, names, others = task
    auto = xfer.AutoRepurposer(source)
    auto.fit(images[:30], names[:30], unlabelled=images[30:] if with_pool else None)
    path = auto.to_onnx(tmp_path / "a.onnx", outputs=["label", "probabilities", "novelty"])
    assert_same(auto, path, others)


def test_labels_are_not_rounded(task, tmp_path):
    source, images, names, _ = task
    large = np.where(names == names[0], 2.0**24 + 1, 5.0)
    repurposer = xfer.LrRepurposer(source, "relu2", pooling="max").fit(images, large)
    found = run(repurposer.to_onnx(tmp_path / "a.onnx"), images)
    np.testing.assert_array_equal(found["label"], repurposer.predict(images))
    larger = np.array([5, 2**63 + 5], dtype=np.uint64)
    repurposer.fit(images, larger[(names == names[0]).astype(int)])
    with pytest.raises(ValueError, match="labels must fit 64 bits with a sign, got 92233720368547"):
        repurposer.to_onnx(tmp_path / "b.onnx")


def test_small_targets_are_compared_as_closely(task, tmp_path):
    pytest.importorskip("skl2onnx")
    source, images, _, _ = task
    # skl2onnx leaves the weights of the neighbours out.
    neighbours = KNeighborsRegressor(3, weights="distance")
    model = xfer.MetaModelRegressor(source, "relu2", neighbours, pooling="max")
    for size in (1e-4, 1, 1e4):
        model.fit(images, size * np.arange(len(images)))
        with pytest.raises(RuntimeError, match="nothing was written"):
            model.to_onnx(tmp_path / "a.onnx")


@pytest.mark.parametrize("widest", [None, 1])
def test_the_words_of_a_mixture(shared, tmp_path, monkeypatch, widest):
    if widest is not None:  # layers that are wider than this are compared by cosine
        monkeypatch.setattr("xfer.meta.mixture._WIDEST", widest)
    random = np.random.RandomState(0)
    ids = random.randint(0, 200, size=(40, 300)) * (random.rand(40, 300) < 0.7)
    groups = np.where(ids[:, :20].sum(axis=1) > 1400, "yes", "no")
    auto = xfer.AutoRepurposer(xfer.load_checkpoint(shared / "models" / "newsgroups_cnn", 0))
    auto.fit(ids[:30].astype(np.float32), groups[:30])
    assert ("words", "naive Bayes") in auto.meta_model_.head_names_
    unseen = ids[30:].copy()
    unseen[:, 5] = 29_999  # a word that the fit has not seen
    path = auto.to_onnx(tmp_path / "a.onnx", outputs=["label", "probabilities", "novelty"])
    assert_same(auto, path, unseen.astype(np.float32))
    auto.fit(ids[:30], groups[:30], unlabelled=ids[30:])
    assert {("words", "graph"), ("all layers", "graph")} <= {*auto.meta_model_.head_names_}
    assert_same(auto, auto.to_onnx(tmp_path / "b.onnx"), unseen.astype(np.float32))


@pytest.mark.parametrize(
    "network", ["newsgroups_cnn", "cifar_resnet20_v1", "cifar_resnet20_v2", "mnist_lenet"]
)
def test_shared_networks(shared, tmp_path, network):
    random, epoch = np.random.RandomState(0), 10 if network == "mnist_lenet" else 0
    source = xfer.load_checkpoint(shared / "models" / network, epoch)
    if network == "newsgroups_cnn":
        X, layer = random.randint(0, 30_000, size=(25, 300)).astype(np.float32), "dropout0"
    elif network == "mnist_lenet":
        X, layer = random.rand(25, 1, 28, 28).astype(np.float32), "activation2"
    else:
        cifar = np.load(shared / "data" / "cifar10_test_1000.npz")["x"][:25]
        X, layer = cifar_input(cifar), f"cifarresnetv{network[-1]}0_pool0_fwd"
    y = np.arange(25) % 3 - 1
    repurposer = xfer.LrRepurposer(source, layer).fit(X[:20], y[:20])
    assert_same(repurposer, repurposer.to_onnx(tmp_path / "a.onnx"), X)


@pytest.mark.parametrize(
    "classifier",
    [
        LogisticRegression(max_iter=500),
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(10, random_state=0),
    ],
    ids=["logistic", "pipeline", "forest"],
)
def test_classifiers_of_scikit_learn(task, tmp_path, classifier):
    pytest.importorskip("skl2onnx")
    source, images, names, others = task
    repurposer = xfer.MetaModelRepurposer(source, "relu2", classifier, pooling="max")
    repurposer.fit(images, names)
    assert_same(repurposer, repurposer.to_onnx(tmp_path / "a.onnx"), others)


def test_a_classifier_that_skl2onnx_does_not_know(task, tmp_path):
    pytest.importorskip("skl2onnx")
    source, images, names, _ = task
    path = tmp_path / "a.onnx"
    unknown = xfer.MetaModelRepurposer(source, "relu2", CALIBRATED_PIPELINE, pooling="max")
    with pytest.raises(ValueError, match="skl2onnx cannot convert Pipeline: "):
        unknown.fit(images, names).to_onnx(path)
    assert not path.exists()


@pytest.mark.parametrize("regressor", [Ridge(), RandomForestRegressor(10, random_state=0)])
def test_regressors(task, tmp_path, regressor):
    pytest.importorskip("skl2onnx")
    source, images, _, others = task
    model = xfer.MetaModelRegressor(source, "relu2", regressor, pooling="max")
    model.fit(images, images.sum(axis=(1, 2, 3)))
    found = run(model.to_onnx(tmp_path / "a.onnx"), others)["variable"].ravel()
    np.testing.assert_allclose(found, model.predict(others), rtol=1e-5)


def test_a_trained_network(task, tmp_path):
    pytest.importorskip("torch")
    source, images, names, others = task
    tuned = xfer.NeuralNetworkFineTuneRepurposer(source, "relu2", pooling="max", num_epochs=1)
    tuned.fit(images, names)
    assert_same(tuned, tuned.to_onnx(tmp_path / "a.onnx"), others)


@pytest.mark.slow
def test_a_pytorch_network(task, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    _, images, names, others = task
    torch.manual_seed(0)
    norm, inplace = torch.nn.BatchNorm2d(4), torch.nn.ReLU(inplace=True)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), norm, inplace, torch.nn.Dropout())
    net.train()
    # The batch norm's output, which the ReLU then changes in place.
    repurposer = xfer.GpRepurposer(net, ["1", "3"], pooling="mean+max").fit(images, names)
    assert_same(repurposer, repurposer.to_onnx(tmp_path / "a.onnx"), others)
    assert net.training
    repurposer.save_repurposer("b", tmp_path, save_source_model=False)
    loaded = xfer.load("b", tmp_path, source_model=net)
    with pytest.raises(ValueError, match="give X, a few examples"):
        loaded.to_onnx(tmp_path / "c.onnx")
    assert_same(loaded, loaded.to_onnx(tmp_path / "c.onnx", images), others)


@pytest.mark.parametrize(
    "pooling", ["masked_mean", pytest.param("first_token", marks=pytest.mark.slow)]
)
def test_tokens_without_padding(tmp_path, pooling):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(50, 6)
            self.mix = torch.nn.Linear(6, 6)

        def forward(self, input_ids, attention_mask=None):
            tokens = self.mix(self.words(input_ids))
            return tokens if attention_mask is None else tokens * attention_mask[:, :, None]

    torch.manual_seed(0)
    random = np.random.RandomState(0)
    X = {"input_ids": random.randint(0, 50, (30, 7)), "attention_mask": np.ones((30, 7), int)}
    X["attention_mask"][::2, 4:] = 0
    X["attention_mask"][1::4, :2] = 0  # on the left
    y = X["input_ids"][:, 3] > 25
    repurposer = xfer.LrRepurposer(Tokens(), "output", pooling=pooling).fit(X, y)
    path = repurposer.to_onnx(tmp_path / "a.onnx")
    assert_same(repurposer, path, X)
    longer = {name: np.concatenate([a, a[:, :3]], axis=1) for name, a in X.items()}
    assert_same(repurposer, path, longer)


def test_networks_of_older_onnx_and_layouts(task, tmp_path):
    _, images, names, others = task
    random = np.random.RandomState(0)
    weights = onnx.numpy_helper.from_array(random.randn(4, 1, 3, 3).astype(np.float32), "w")
    nodes = [
        onnx.helper.make_node("Conv", ["label", "w"], ["conv"]),
        onnx.helper.make_node("ReduceMean", ["conv"], ["flat"], axes=[2, 3], keepdims=0),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "old", [value("label", 1, ["n", 1, 16, 16])], [value("flat", 1, None)], [weights]
    )
    opset = [onnx.helper.make_opsetid("", 11)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=6)
    repurposer = xfer.LrRepurposer(model, "conv", pooling="mean").fit(images, names)
    with pytest.raises(ValueError, match="the network has an input named 'label'"):
        repurposer.to_onnx(tmp_path / "a.onnx")
    path = repurposer.to_onnx(tmp_path / "a.onnx", outputs=["probabilities"])
    found = run(path, others)["probabilities"]
    np.testing.assert_allclose(found, repurposer.predict_proba(others), atol=1e-5)


def test_examples_on_another_axis(mx, tmp_path):
    from conftest import bound_module

    dense = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=5, flatten=False, name="dense")
    symbol = mx.sym.mean(dense, axis=0, name="out")
    module = bound_module(mx, symbol, {"data": (7, 3, 4)}, label_names=[])
    source = xfer.open_source(module).with_batch_axes({"data": 1})
    X = np.random.RandomState(0).randn(40, 7, 4).astype(np.float32)
    repurposer = xfer.LrRepurposer(source, ["dense", "out"]).fit(X, X[:, 0, 0] > 0)
    path = repurposer.to_onnx(tmp_path / "a.onnx")
    found = run(path, np.ascontiguousarray(X.transpose(1, 0, 2)))
    np.testing.assert_allclose(found["probabilities"], repurposer.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (16, 20)},
        {"size": (16, 20), "crop": None, "channels": "bgr", "layout": "NHWC", "std": [1, 2, 3]},
        {"size": 24, "channels": "gray", "mean": 0.5, "std": 0.2},
        {"size": None, "scale": 1},
        {"size": (16, 20), "resize": 23, "interpolation": "bicubic"},
        {"size": 24, "crop": None, "interpolation": "bicubic", "mean": 0.5},
    ],
)
def test_pictures(tmp_path, settings):
    pytest.importorskip("PIL")
    random = np.random.RandomState(0)
    inputs = xfer.ImageInputs(**settings)
    n = inputs._n_channels
    shape = ["n", n, "h", "w"] if inputs.layout == "NCHW" else ["n", "h", "w", n]
    weights = random.randn(4, n, 3, 3).astype(np.float32) / 3
    to_front = onnx.helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2])
    nodes = [
        *([to_front] if inputs.layout == "NHWC" else []),
        onnx.helper.make_node("Conv", ["nchw" if inputs.layout == "NHWC" else "x", "w"], ["c"]),
        onnx.helper.make_node("Relu", ["c"], ["r"]),
        onnx.helper.make_node("GlobalAveragePool", ["r"], ["p"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "small",
        [value("x", 1, shape)],
        [value("p", 1, None)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    source = xfer.open_source(model, inputs=inputs)
    sizes = [(33, 50), (16, 20), (7, 40), (24, 24)] if inputs.size else [(12, 13)]
    pictures = [random.randint(0, 256, (8, *size, n)).astype(np.uint8) for size in sizes]
    for batch in pictures:
        batch[::2] //= 3
    given = [one for batch in pictures for one in batch]
    repurposer = xfer.LrRepurposer(source, "p").fit(given, np.arange(len(given)) % 2)
    path = repurposer.to_onnx(tmp_path / "a.onnx")
    (entry,) = onnxruntime.InferenceSession(str(path)).get_inputs()
    assert (entry.name, entry.type) == ("pictures", "tensor(uint8)")
    for batch in pictures:
        # A pixel in a thousand is rounded the other way.
        np.testing.assert_allclose(
            run(path, batch)["probabilities"], repurposer.predict_proba(list(batch)), atol=1e-3
        )


def test_runs_without_xfer(task, tmp_path):
    source, images, names, others = task
    repurposer = xfer.LrRepurposer(source, "relu2", pooling="max").fit(images, names)
    path = repurposer.to_onnx(tmp_path / "a.onnx")
    np.save(tmp_path / "others.npy", others)
    program = (
        "import sys, numpy as np, onnxruntime as o; s = o.InferenceSession(sys.argv[1]); "
        "label, p = s.run(None, {'data': np.load(sys.argv[2])}); assert p.dtype == np.float32; "
        "print(ascii(label.tolist())); assert not {'xfer', 'onnx', 'sklearn'} & {*sys.modules}"
    )
    arguments = [sys.executable, "-c", program, str(path), str(tmp_path / "others.npy")]
    found = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert found.strip() == ascii(repurposer.predict(others).tolist())
    notes = {one.key: one.value for one in onnx.load(path).metadata_props}
    notes = json.loads(notes["xfer"])
    assert notes["classes"] == repurposer.classes_.tolist()
    assert notes["layers"] == ["relu2"]
    assert len(notes["fingerprint"]) == 64


@pytest.mark.slow  # downloads a package of 300 MB
@pytest.mark.parametrize("package", ["onnxruntime-node", "onnxruntime-web"])
def test_the_page_in_javascript(task, tmp_path, package):
    if not shutil.which("npm"):
        pytest.skip("needs npm")
    source, images, names, _ = task
    repurposer = xfer.GpRepurposer(source, "relu2", pooling="max").fit(images, names)
    repurposer.to_onnx(tmp_path / "digits.onnx")
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```javascript\n(.*?)^```", page, re.S | re.M)
    (tmp_path / "run.mjs").write_text(program.replace("onnxruntime-node", package))
    # Without its script, which downloads libraries for GPUs.
    install = ["npm", "install", "--ignore-scripts", "--no-audit", package]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True)
    node = ["node", "run.mjs"]
    found = subprocess.run(node, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    black = np.zeros((1, 1, 16, 16), np.float32)
    label, *probabilities = re.findall(r"^\S+|\d\.\d+(?:e-\d+)?", found)
    assert label == repurposer.predict(black)[0]
    expected = repurposer.predict_proba(black)[0]
    np.testing.assert_allclose(np.array(probabilities, float), expected, atol=1e-5)


def test_a_wrong_file_is_not_written(task, tmp_path, monkeypatch):
    source, images, names, _ = task
    repurposer = xfer.LrRepurposer(source, "relu2", pooling="max").fit(images, names)
    root = "xfer.export.heads._root"
    monkeypatch.setattr(root, lambda X: X)
    with pytest.raises(RuntimeError, match="the file gives probabilities"):
        repurposer.to_onnx(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_values_of_the_network_may_have_the_names_of_outputs(task, tmp_path):
    _, images, names, others = task
    random = np.random.RandomState(0)
    weights = onnx.numpy_helper.from_array(random.randn(4, 1, 3, 3).astype(np.float32), "label")
    node = onnx.helper.make_node("Conv", ["x", "label"], ["probabilities"], name="novelty")
    value = onnx.helper.make_tensor_value_info
    outputs = [value("probabilities", 1, None)]
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", 1, ["n", 1, 16, 16])], outputs, [weights]
    )
    opset = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    repurposer = xfer.LrRepurposer(model, "probabilities", pooling="mean").fit(images, names)
    assert_same(repurposer, repurposer.to_onnx(tmp_path / "a.onnx"), others)


def test_a_loaded_repurposer(shared, tmp_path):
    source = xfer.load_checkpoint(shared / "models" / "newsgroups_cnn", 0)
    ids = np.random.RandomState(0).randint(0, 30_000, size=(30, 300))
    xfer.LrRepurposer(source, "dropout0").fit(ids, ids[:, 0] > 15_000).save_repurposer(
        "a", tmp_path
    )
    loaded = xfer.load("a", tmp_path)
    assert_same(loaded, loaded.to_onnx(tmp_path / "a.onnx"), ids, ids.astype(np.float32))


@pytest.mark.parametrize(
    "classifier",
    [LinearSVC(), RidgeClassifier()],
    ids=lambda one: type(one).__name__,
)
def test_labels_have_one_axis(task, tmp_path, classifier):
    pytest.importorskip("skl2onnx")
    source, others = task[0], task[3]
    noise = np.random.RandomState(0).rand(80, 1, 16, 16).astype(np.float32)
    repurposer = xfer.MetaModelRepurposer(source, "relu1", classifier, pooling="mean")
    repurposer.fit(noise, np.arange(80) // 40 + 5)
    assert_same(repurposer, repurposer.to_onnx(tmp_path / "a.onnx"), others)


def test_labels_alone_are_compared_too(task, tmp_path):
    pytest.importorskip("skl2onnx")
    source, images, _, _ = task
    one_by_one = OneVsOneClassifier(LogisticRegression())  # which skl2onnx gets wrong
    repurposer = xfer.MetaModelRepurposer(source, "relu2", one_by_one, pooling="max")
    repurposer.fit(images, np.arange(60) // 15 + 5)
    with pytest.raises(RuntimeError, match="the file gives label"):
        repurposer.to_onnx(tmp_path / "a.onnx")


def test_what_is_refused(task, tmp_path):
    source, images, names, _ = task
    path = tmp_path / "a.onnx"
    repurposer = xfer.LrRepurposer(source, "relu2", pooling="max")
    with pytest.raises(Exception, match="not fitted"):
        repurposer.to_onnx(path)
    repurposer.fit(images, names)
    with pytest.raises(ValueError, match="outputs of this LrRepurposer are label, probabilities"):
        repurposer.to_onnx(path, outputs=["novelty"])
    svm = xfer.SvmRepurposer(source, "relu2", enable_probability_estimates=False)
    assert list(run(svm.fit(images, names).to_onnx(path), images[:2])) == ["label"]
    path.unlink()

    class Own:
        input_names = ["data"]
        layers = [xfer.sources.Layer("a", "own", (4,), 0)]

        def extract(self, data, layer_names, pooling="flatten", progress=None):
            matrix = np.asarray(data).reshape(len(data), -1)[:, :4].astype(np.float32)
            return xfer.sources.Features(matrix, {"a": slice(0, 4)}, {"a": (4,)})

    several = xfer.MetaModelRepurposer(source, "relu2", KNeighborsClassifier(3), pooling="max")
    several.fit(images, np.column_stack([np.arange(60) % 2, np.arange(60) % 3 > 0]))
    with pytest.raises(ValueError, match="several labels per example cannot be exported"):
        several.to_onnx(path)
    with pytest.raises(TypeError, match="X must be an array, a dict of arrays or a list"):
        repurposer.to_onnx(path, iter([images]))
    own = xfer.LrRepurposer(Own(), "a").fit(np.random.rand(20, 4), names[:20])
    with pytest.raises(TypeError, match="a source of class Own cannot be exported"):
        own.to_onnx(path)
    assert not path.exists()


def test_a_trained_network_is_exported_after_loading(tmp_path):
    pytest.importorskip("torch")
    images, digits = xfer.example.digits()
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    model = xfer.NeuralNetworkFineTuneRepurposer(source, "relu2", pooling="max", num_epochs=1)
    path = model.fit(images[:60], digits[:60]).save_repurposer("trained", tmp_path)
    assert xfer.load(path).to_onnx(tmp_path / "trained.onnx").is_file()


def test_the_data_of_a_fit_count_not_those_the_network_saw_first(tmp_path):
    images, digits = xfer.example.digits()
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    larger = np.pad(images[:60], ((0, 0), (0, 0), (4, 4), (4, 4)))
    first = xfer.LrRepurposer(source, "relu2").fit(images[:60], digits[:60])
    second = xfer.LrRepurposer(source, "relu2").fit(larger, digits[:60])
    for model, side in ((first, 16), (second, 24)):
        assert model.features_.fit_data_["inputs"]["data"][1] == [1, side, side]
        assert model.to_onnx(tmp_path / "net.onnx").is_file()
