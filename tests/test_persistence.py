"""Repurposers as files: they come back the same, or with a clear error, and never run code."""

import hashlib
import io
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import source_cases
from conftest import bound_module, convolutional_symbol
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import DotProduct, Matern, RationalQuadratic, WhiteKernel
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier, OutputCodeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

import xfer

LABELS = {
    "integers": np.array([3, 7, 40]),
    "strings": np.array(["autos", "guns", "hockey"]),
    "objects": np.array(["autos", "guns", "hockey"], dtype=object),
}


@pytest.fixture
def data():
    random = np.random.RandomState(3)
    return random.normal(size=(30, 2, 6, 6)).astype(np.float32), np.resize([0, 1, 2], 30)


@pytest.fixture
def saved(module, data, tmp_path):
    """A saved repurposer: the file, and what it predicts."""
    repurposer = xfer.LrRepurposer(module, ["relu1"], pooling="mean", c=2.5).fit(*data)
    path = repurposer.save_repurposer("saved", tmp_path)
    return path, repurposer.predict_proba(data[0])


def rewrite(path, change=None, **members):
    """Change members of a saved file, and give it the checksum of an honest one."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content.update(members)
    if change is not None:
        change(content)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        archive.comment = b"0" * 64
    data = path.read_bytes()[:-64]
    path.write_bytes(data + hashlib.sha256(data).hexdigest().encode())


def edit_manifest(path, **changes):
    def change(content):
        manifest = json.loads(content["manifest.json"])
        content["manifest.json"] = json.dumps({**manifest, **changes}).encode()

    rewrite(path, change)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (xfer.LrRepurposer, {"c": 0.7}),
        (xfer.SvmRepurposer, {"c": 0.7}),
        (xfer.GpRepurposer, {"apply_l2_norm": True}),
        (xfer.BnnRepurposer, {"n_hidden": 7}),
    ],
)
@pytest.mark.parametrize("with_network", [None, True, False])
def test_a_repurposer_comes_back_the_same(
    module, data, tmp_path, kind, option, labels, with_network
):
    images, numbers = data
    repurposer = kind(module, ["relu1", "fc1"], pooling="max", **option)
    repurposer.fit(images, labels[numbers])
    path = repurposer.save_repurposer("net", str(tmp_path), save_source_model=with_network)
    assert path == tmp_path / "net.xfer"
    assert os.listdir(tmp_path) == ["net.xfer"]
    loaded = xfer.load("net", tmp_path, source_model=module if with_network is False else None)
    assert type(loaded) is kind
    np.testing.assert_array_equal(loaded.classes_, repurposer.classes_)
    np.testing.assert_array_equal(loaded.predict_proba(images), repurposer.predict_proba(images))
    np.testing.assert_array_equal(loaded.predict(images), repurposer.predict(images))
    if hasattr(repurposer, "predict_uncertainty"):
        expected = repurposer.predict_uncertainty(images)
        np.testing.assert_array_equal(loaded.predict_uncertainty(images), expected)
    for name, value in repurposer.get_params().items():
        if name != "source_model":
            assert getattr(loaded, name) == value
    loaded.fit(images, numbers)
    loaded.save_repurposer("net", tmp_path)
    assert xfer.load("net.xfer", tmp_path).score(images, numbers) == loaded.score(images, numbers)


def test_the_module_need_not_be_bound_as_it_was(mx, saved, data, tmp_path):
    path, expected = saved
    module = bound_module(mx, convolutional_symbol(mx), {"data": (3, 2, 6, 6)}, for_training=False)
    loaded = xfer.load(path.stem, path.parent, source_model=module)
    np.testing.assert_allclose(loaded.predict_proba(data[0]), expected, atol=1e-6)
    module.save_checkpoint(str(tmp_path / "checkpoint"), 0)
    module = mx.mod.Module.load(str(tmp_path / "checkpoint"), 0)
    loaded = xfer.load(path.stem, path.parent, source_model=module)
    np.testing.assert_allclose(loaded.predict_proba(data[0]), expected, atol=1e-6)


def test_another_head_on_the_same_layers_is_the_same_network(mx, module, saved, data):
    path, expected = saved
    inner = module.symbol.get_internals()["relu1_output"]
    headless = mx.mod.Module(inner, label_names=None)
    headless.bind([("data", (8, 2, 6, 6))])
    headless.set_params(*module.get_params(), allow_extra=True)
    loaded = xfer.load(path.stem, path.parent, source_model=headless)
    np.testing.assert_allclose(loaded.predict_proba(data[0]), expected, atol=1e-6)


def test_another_network_is_refused(mx, module, saved):
    path, _ = saved
    arguments, statistics = (dict(half) for half in module.get_params())
    arguments["conv1_bias"] = arguments["conv1_bias"] + 1e-3
    module.set_params(arguments, statistics)
    with pytest.raises(ValueError, match=r"saved\.xfer .* not the network .*: other .*conv1_bias"):
        xfer.load(path.stem, path.parent, source_model=module)
    data = mx.sym.Convolution(mx.sym.var("data"), kernel=(3, 3), num_filter=4, name="relu1")
    other = bound_module(mx, data, {"data": (8, 2, 6, 6)}, label_names=None)
    with pytest.raises(ValueError, match="source_model is not the network"):
        xfer.load(path.stem, path.parent, source_model=other)
    flat = bound_module(mx, mx.sym.Flatten(mx.sym.var("data")), {"data": (8, 2)}, label_names=None)
    with pytest.raises(ValueError, match="the network has no layer 'relu1'"):
        xfer.load(path.stem, path.parent, source_model=flat)


def test_a_network_that_cannot_be_checked_is_refused_or_warned_of(saved, data, tmp_path):
    path, _ = saved

    class Own(xfer.sources.SourceModel):
        layers = [xfer.sources.Layer("relu1", "sum", (2,), 0)]
        input_names = ["data"]

        def _forward(self, inputs, layers):
            return [inputs["data"].sum(axis=(2, 3))]

    with pytest.raises(ValueError, match="of class Own, has no fingerprint to be known by"):
        xfer.load(path.stem, path.parent, source_model=Own())
    repurposer = xfer.LrRepurposer(Own(), "relu1").fit(*data)
    with pytest.raises(TypeError, match="a source of class Own cannot go into the file"):
        repurposer.save_repurposer("own", tmp_path)
    repurposer.save_repurposer("own", tmp_path, save_source_model=False)
    with pytest.warns(
        UserWarning, match="could not be checked that source_model, of class Own, is the same"
    ):
        loaded = xfer.load("own", tmp_path, source_model=Own())
    np.testing.assert_array_equal(loaded.predict(data[0]), repurposer.predict(data[0]))


class Bands(xfer.sources.SourceModel):
    """A source of one's own with a fingerprint of its own kind."""

    layers = [xfer.sources.Layer("sum", "sum", (2,), 0)]
    input_names = ["data"]

    def __init__(self, *fingerprint):
        self._fingerprint = fingerprint

    def _forward(self, inputs, layers):
        return [inputs["data"].sum(axis=(2, 3))]

    def fingerprint(self, layer_names):
        return self._fingerprint[0] if len(self._fingerprint) == 1 else self._fingerprint


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ([{"bands": 12, "of": (1, 2)}], [{"bands": 20, "of": (1, 2)}], ": other bands$"),
        ([{"bands": 12}], [{"parameters": {"filters": "a"}}], ": other bands, parameters$"),
        ([{"parameters": {"a": "1", "b": "2"}}], [{"parameters": {"a": "1", "c": "2"}}], "s b, c$"),
        ([{"parameters": ["a"]}], [{"parameters": {"a": "1"}}], ": other parameters$"),
        (["twelve"], ["twenty"], "the network it was fitted on$"),
        ([1, 2], [{"bands": 12}], "the network it was fitted on$"),
    ],
)
def test_fingerprints_of_ones_own_kind(data, tmp_path, one, other, message):
    repurposer = xfer.LrRepurposer(Bands(*one), "sum").fit(*data)
    repurposer.save_repurposer("own", tmp_path, save_source_model=False)
    loaded = xfer.load("own", tmp_path, source_model=Bands(*one))
    np.testing.assert_array_equal(loaded.predict(data[0]), repurposer.predict(data[0]))
    with pytest.raises(ValueError, match=f"source_model is not .*{message}"):
        xfer.load("own", tmp_path, source_model=Bands(*other))


MIXED = [("bayes", GaussianNB()), ("logistic", LogisticRegression())]
CLASSIFIERS = [
    make_pipeline(StandardScaler(), LogisticRegression()),
    KNeighborsClassifier(1, algorithm="brute"),
    LinearSVC(random_state=np.random.RandomState(0)),
    CalibratedClassifierCV(LinearSVC(), cv=3),
    CalibratedClassifierCV(make_pipeline(StandardScaler(), LinearSVC()), cv=3, method="isotonic"),
    GaussianProcessClassifier(
        DotProduct() + Matern() * WhiteKernel() + RationalQuadratic() + 1.0, optimizer=None
    ),
    MLPClassifier((5,), tol=1, random_state=0),
    MLPClassifier((5,), tol=1, solver="sgd", random_state=0),
    OneVsRestClassifier(VotingClassifier(MIXED, voting="soft")),
    StackingClassifier(MIXED, cv=3),
    OutputCodeClassifier(LogisticRegression(), code_size=1, random_state=1),
]


@pytest.mark.parametrize("model", CLASSIFIERS, ids=lambda model: type(model).__name__)
def test_scikit_learn_classifiers_can_be_saved(module, data, tmp_path, model):
    repurposer = xfer.MetaModelRepurposer(module, ["relu1"], model, pooling="mean").fit(*data)
    repurposer.save_repurposer("any", tmp_path)
    loaded = xfer.load("any", tmp_path)
    np.testing.assert_array_equal(loaded.predict(data[0]), repurposer.predict(data[0]))
    if hasattr(repurposer, "predict_proba"):
        expected = repurposer.predict_proba(data[0])
        np.testing.assert_array_equal(loaded.predict_proba(data[0]), expected)


def test_a_repurposer_of_ones_own_can_be_saved(module, data, tmp_path):
    class OwnRepurposer(xfer.LrRepurposer):
        pass

    OwnRepurposer(module, "relu1").fit(*data).save_repurposer("own", tmp_path)
    assert type(xfer.load("own", tmp_path)) is OwnRepurposer


def test_what_cannot_be_saved_safely_is_refused_and_the_old_file_stays(module, data, saved):
    path, _ = saved
    before = path.read_bytes()

    class Own(LogisticRegression):
        pass

    def double(X):
        return 2 * X

    for model in (
        Own(),
        make_pipeline(FunctionTransformer(double), LogisticRegression()),
        RandomForestClassifier(5),
        HistGradientBoostingClassifier(max_iter=1),
    ):
        repurposer = xfer.MetaModelRepurposer(module, ["relu1"], model).fit(*data)
        holds = r"(skops cannot write what it holds|it holds .*(Own|double|Tree \(TreeNode|Loss))"
        with pytest.raises(TypeError, match=rf"this \w+ cannot be saved safely: {holds}"):
            repurposer.save_repurposer("saved", path.parent)
    with pytest.raises(NotFittedError, match="not fitted"):
        xfer.LrRepurposer(module, ["relu1"]).save_repurposer("saved", path.parent)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["saved.xfer"]


def test_an_interrupted_save_leaves_the_old_file_whole(module, data, saved, monkeypatch):
    path, expected = saved
    repurposer = xfer.SvmRepurposer(module, ["relu1"]).fit(*data)
    calls = []
    write = zipfile.ZipFile.writestr

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return write(*args, **kwargs)

    monkeypatch.setattr("xfer.persistence._dump", lambda repurposer: b"state")
    monkeypatch.setattr(zipfile.ZipFile, "writestr", interrupted)
    with pytest.raises(KeyboardInterrupt):
        repurposer.save_repurposer("saved", path.parent)
    monkeypatch.undo()
    assert os.listdir(path.parent) == ["saved.xfer"]
    loaded = xfer.load("saved", path.parent)
    np.testing.assert_array_equal(loaded.predict_proba(data[0]), expected)


def test_names_and_folders(module, data, tmp_path, saved):
    repurposer = xfer.LrRepurposer(module, ["relu1"]).fit(*data)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere to save a\.xfer in"):
        repurposer.save_repurposer("a", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="model_name must be the name of a file, got ''"):
        repurposer.save_repurposer("")
    with pytest.raises(FileNotFoundError, match=r"no saved repurposer .*absent\.xfer"):
        xfer.load("absent", tmp_path)
    repurposer.save_repurposer(str(tmp_path / "prefix"))
    assert xfer.load(tmp_path / "prefix").score(*data) == repurposer.score(*data)
    repurposer.save_repurposer("bare", tmp_path, save_source_model=False)
    with pytest.raises(ValueError, match="saved without its network: give that as source_model"):
        xfer.load("bare", tmp_path)


def test_every_byte_counts(saved):
    path, _ = saved
    content = path.read_bytes()
    random = np.random.RandomState(0)
    places = {*random.randint(len(content), size=200), 0, len(content) - 1}
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << random.randint(8)
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="is damaged or was changed"):
            xfer.load(path.stem, path.parent)
    for length in (0, 1, 63, 64, 65, 1000, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is damaged or was changed"):
            xfer.load(path.stem, path.parent)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="is damaged or was changed"):
        xfer.load(path.stem, path.parent)


def test_rewriting_alone_changes_nothing(saved, data):
    """The control of the tests below: what they rewrite is refused for what they changed."""
    path, expected = saved
    rewrite(path)
    loaded = xfer.load(path.stem, path.parent)
    np.testing.assert_array_equal(loaded.predict_proba(data[0]), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "it is of format 2, written by .*; this version of xfer reads format 1"),
        ({"class": "os.system"}, "import the module that defines os.system first"),
        ({"class": "xfer.repurposers.SvmRepurposer"}, "unexpected keyword argument"),
        ({"layers": ["fc1"]}, "source_model is not the network"),
        ({"source": {"kind": "other"}}, "its network is of the unknown kind 'other'"),
        ({"source": {}}, "kind"),
        ({"source": 3}, "."),
        ({"fingerprint": {"graph": "", "parameters": {}}}, "source_model is not the network"),
        ({"layers": None}, "."),
    ],
)
def test_a_tampered_manifest_is_refused(saved, changes, message):
    path, _ = saved
    edit_manifest(path, **changes)
    with pytest.raises(ValueError, match=rf"saved\.xfer cannot be loaded: .*{message}"):
        xfer.load(path.stem, path.parent)


def test_a_manifest_that_is_none_is_refused(saved):
    path, _ = saved
    for content in (b"", b"[]", b"{", b"\xff", b"null"):
        rewrite(path, **{"manifest.json": content})
        with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
            xfer.load(path.stem, path.parent)


def test_every_tampered_array_is_refused(saved):
    path, _ = saved
    original = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        arrays = [name for name in archive.namelist() if name.startswith("source/")]
    assert len(arrays) == 10
    pickled = io.BytesIO()
    np.save(pickled, np.array([Bomb()], dtype=object), allow_pickle=True)
    other = io.BytesIO()
    np.save(other, np.zeros(3, np.float32))
    used = [name for name in arrays if "conv1" in name or "bn1" in name]
    for name in arrays:
        path.write_bytes(original)
        rewrite(path, **{name: pickled.getvalue()})
        with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
            xfer.load(path.stem, path.parent)
    for name in used:
        for content in (b"", b"\x93NUMPY", other.getvalue()):
            path.write_bytes(original)
            rewrite(path, **{name: content})
            with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
                xfer.load(path.stem, path.parent)
    assert not Bomb.exploded


def test_a_tampered_graph_is_refused(saved):
    path, _ = saved
    original = path.read_bytes()

    def tampered(change):
        def edit(content):
            manifest = json.loads(content["manifest.json"])
            change(manifest["source"]["graph"])
            content["manifest.json"] = json.dumps(manifest).encode()

        path.write_bytes(original)
        rewrite(path, edit)
        with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
            xfer.load(path.stem, path.parent)

    tampered(lambda graph: graph["nodes"][3].update(inputs=[[99, 0, 0]]))
    tampered(lambda graph: graph["nodes"][3].update(inputs=[[3, 0, 0]]))
    tampered(lambda graph: graph["nodes"][3].update(op="NoSuchOperator"))
    tampered(lambda graph: graph.update(heads=[[1000, 0, 0]]))
    tampered(lambda graph: graph.update(nodes=[]))
    tampered(lambda graph: graph["nodes"][3].setdefault("attrs", {}).update(kernel="(5, 5)"))


class Bomb:
    exploded = []

    def __reduce__(self):
        return Bomb.exploded.append, (1,)


def skops_file(schema, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def node(loader, kind, content=None, module="builtins", **more):
    return {
        "__class__": kind,
        "__module__": module,
        "__loader__": loader,
        "content": content,
        **more,
        "protocol": 2,
    }


TEXT = node("JsonNode", "str", '"touch exploded"', is_json=True)
ESTIMATOR = "sklearn.linear_model._logistic"
EVIL = {
    "a function": node("FunctionNode", "system", module="posix"),
    "a bound method of a trusted type": node(
        "MethodNode",
        "LogisticRegression",
        {"func": "__init__", "obj": node("ObjectNode", "LogisticRegression", module=ESTIMATOR)},
        ESTIMATOR,
    ),
    "an operator under a trusted name": node(
        "OperatorFuncNode",
        "methodcaller",
        module="operator",
        attrs=node("TupleNode", "tuple", [TEXT]),
    ),
    "a partial function": node(
        "PartialNode",
        "partial",
        {
            "func": node("FunctionNode", "system", module="posix"),
            "args": node("TupleNode", "tuple", [TEXT]),
            "kwds": node("DictNode", "dict", {}, key_types=node("ListNode", "list", [])),
            "namespace": node("DictNode", "dict", {}, key_types=node("ListNode", "list", [])),
        },
        "functools",
    ),
    "a type of elsewhere": node("ObjectNode", "Popen", module="subprocess"),
    "a type by name": node("TypeNode", "Popen", module="subprocess"),
    "an unknown loader": node("EvilNode", "evil"),
    "nothing": {},
    "a list": [],
}


@pytest.mark.parametrize("schema", EVIL.values(), ids=EVIL)
def test_a_meta_model_that_could_run_code_is_refused(saved, schema, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _ = saved
    rewrite(path, **{"repurposer.skops": skops_file(schema)})
    with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
        xfer.load(path.stem, path.parent)
    assert os.listdir(tmp_path) == ["saved.xfer"]


def test_a_loader_that_is_not_allowed_is_found_where_skops_itself_would_trust(saved):
    """Inside a trusted file, a bound method of a trusted type passes the audit of old skops."""
    path, _ = saved

    def change(content):
        with zipfile.ZipFile(io.BytesIO(content["repurposer.skops"])) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        schema = json.loads(members.pop("schema.json"))
        model = schema["content"]["meta_model"]
        method = {**model, "__loader__": "MethodNode", "content": {"func": "fit", "obj": model}}
        schema["content"]["method"] = {key: v for key, v in method.items() if key != "__id__"}
        content["repurposer.skops"] = skops_file(schema, **members)

    rewrite(path, change)
    with pytest.raises(ValueError, match=r"it holds .*MethodNode.*, which"):
        xfer.load(path.stem, path.parent)


@pytest.mark.parametrize("loader", ["LossNode", "FunctionNode", "ObjectNode", "TreeNode"])
def test_nothing_is_imported_to_find_out_what_a_file_holds(saved, loader, tmp_path, monkeypatch):
    path, _ = saved
    (tmp_path / "unasked_for.py").write_text("class Loss: pass")
    monkeypatch.syspath_prepend(tmp_path)
    nothing = node("TupleNode", "tuple", [])
    evil = node(loader, "Loss", nothing, "unasked_for", __reduce__={"args": nothing})
    rewrite(path, **{"repurposer.skops": skops_file(evil)})
    with pytest.raises(ValueError, match=r"it holds unasked_for.Loss"):
        xfer.load(path.stem, path.parent)
    assert "unasked_for" not in sys.modules


def test_a_meta_model_that_is_no_file_is_refused(saved):
    path, _ = saved
    for content in (b"", b"PK", skops_file({})[:-10]):
        rewrite(path, **{"repurposer.skops": content})
        with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
            xfer.load(path.stem, path.parent)


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("data/*.xfer")), ids=str)
def test_files_of_other_versions_load(path):
    """Each was written of a Module, beside the versions in its name; MXNet is not needed."""
    images = np.random.RandomState(0).normal(size=(7, 2, 6, 6)).astype(np.float32)
    expected = np.load(path.with_suffix(".npy"), allow_pickle=False)
    loaded = xfer.load(path)
    assert loaded.classes_.tolist() == ["autos", "guns", "hockey"]
    np.testing.assert_allclose(loaded.predict_proba(images), expected, atol=1e-5)


def test_what_a_network_was_opened_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = source_cases.onnx_file(tmp_path).model
    images, labels = list(source_cases.IMAGES), ["a", "b", "c"] * 7

    def halve(examples):
        return np.stack(examples) / 2

    source = xfer.open_source(model, preprocess=halve, padding_id=3)
    repurposer = xfer.LrRepurposer(source, "fc1").fit(images, labels)
    expected = repurposer.predict_proba(images)
    repurposer.save_repurposer("whole")
    repurposer.save_repurposer("without", save_source_model=False)
    ways = [
        ("whole", {"preprocess": halve}),
        ("without", {"source_model": source}),
        ("without", {"source_model": model, "preprocess": halve}),
    ]
    for name, options in ways:
        loaded = xfer.load(name, **options)
        np.testing.assert_array_equal(loaded.predict_proba(images), expected)
        assert loaded.features_.source_.padding_id == 3
    for name, options in [("whole", {}), ("without", {"source_model": model})]:
        with pytest.raises(ValueError, match="went through a preprocess.*give it to xfer.load"):
            xfer.load(name, **options)
    assert xfer.open_source(model).preprocess is None
    xfer.LrRepurposer(model, "fc1").fit(np.stack(images), labels).save_repurposer("plain")
    with pytest.raises(ValueError, match="fitted without a preprocess"):
        xfer.load("plain", preprocess=halve)


def test_a_network_of_torch_stays_with_its_owner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch = pytest.importorskip("torch")
    net = source_cases.torch_module(tmp_path).model
    images, labels = source_cases.IMAGES, ["a", "b", "c"] * 7
    repurposer = xfer.LrRepurposer(net, "relu1").fit(images, labels)
    with pytest.raises(TypeError, match="TorchSource cannot go into the file: .*=False"):
        repurposer.save_repurposer("net")
    repurposer.save_repurposer("net", save_source_model=False)
    loaded = xfer.load("net", source_model=net)
    np.testing.assert_array_equal(loaded.predict_proba(images), repurposer.predict_proba(images))

    class Sequential(torch.nn.Sequential):
        """The same in other words."""

    other = Sequential()
    for name, part in net.named_children():
        other.add_module(name, part)
    with pytest.warns(UserWarning, match="the text of its code differs"):
        xfer.load("net", source_model=other)
    with torch.no_grad():
        net.conv1.bias[0] += 1
    with pytest.raises(ValueError, match="not the network it was fitted on: .*conv1.bias"):
        xfer.load("net", source_model=net)
