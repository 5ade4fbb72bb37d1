"""Repurposers as files: they come back the same, or with a clear error, and never run code."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
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
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier, OutputCodeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC, NuSVR, OneClassSVM

import xfer
from xfer._compiled import check_compiled

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


def unpack(path):
    """Return the schema of a saved file, and its other members by name."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes()[:-64])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(members.pop("schema.json")), members


def seal(path, archive):
    """Write an archive with the checksum of an honest file."""
    path.write_bytes(archive + hashlib.sha256(archive).hexdigest().encode())


def pack(path, schema, members, compression=zipfile.ZIP_STORED):
    """Write what :func:`unpack` returned."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr("schema.json", schema if isinstance(schema, str) else json.dumps(schema))
    seal(path, file.getvalue())


def edit_manifest(path, **changes):
    schema, members = unpack(path)
    node = schema["content"]["manifest"]
    manifest = json.loads(json.loads(node["content"]))
    node["content"] = json.dumps(json.dumps({**manifest, **changes}))
    pack(path, schema, members)


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
def test_a_repurposer_comes_back_the_same(module, data, tmp_path, kind, option, labels):
    images, numbers = data
    repurposer = kind(module, ["relu1", "fc1"], pooling="max", **option)
    repurposer.fit(images, labels[numbers])
    path = repurposer.save_repurposer("net", str(tmp_path))
    assert path == tmp_path / "net.xfer"
    assert os.listdir(tmp_path) == ["net.xfer"]
    loaded = xfer.load("net", tmp_path)
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


def test_with_or_without_the_network(module, data, saved):
    path, expected = saved
    size = path.stat().st_size
    repurposer = xfer.load(path)
    repurposer.save_repurposer(path, save_source_model=True)
    assert path.stat().st_size == size
    repurposer.save_repurposer(path, save_source_model=False)
    assert path.stat().st_size < size - 5000
    loaded = xfer.load(path, source_model=module)
    np.testing.assert_array_equal(loaded.predict_proba(data[0]), expected)
    with pytest.raises(ValueError, match="saved without its network: load it with"):
        xfer.load(path)


def test_files_of_another_kind_are_told(tmp_path):
    (tmp_path / "net.onnx").touch()
    with pytest.raises(FileNotFoundError, match=r"net.onnx.xfer; .*net.onnx does not end in"):
        xfer.load("net.onnx", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no saved repurposer .*none.xfer$"):
        xfer.load(tmp_path / "none")


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
    with pytest.raises(
        ValueError, match=r"saved\.xfer .* not the network .*: it differs .*conv1_bias"
    ):
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

    with pytest.raises(ValueError, match="of class Own, has no fingerprint to compare"):
        xfer.load(path.stem, path.parent, source_model=Own())
    repurposer = xfer.LrRepurposer(Own(), "relu1").fit(*data)
    with pytest.raises(TypeError, match="a source of class Own cannot go into the file"):
        repurposer.save_repurposer("own", tmp_path)
    repurposer.save_repurposer("own", tmp_path, save_source_model=False)
    with pytest.warns(UserWarning, match="class Own has no fingerprint, so it was not checked"):
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
        ([{"bands": 12, "of": (1, 2)}], [{"bands": 20, "of": (1, 2)}], ": it differs in bands$"),
        ([{"bands": 12}], [{"parameters": {"filters": "a"}}], ": it differs in bands, parameters$"),
        ([{"parameters": {"a": "1", "b": "2"}}], [{"parameters": {"a": "1", "c": "2"}}], "s b, c$"),
        ([{"parameters": ["a"]}], [{"parameters": {"a": "1"}}], ": it differs in parameters$"),
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

    def interrupted(archive):
        raise KeyboardInterrupt

    # What is written last.
    monkeypatch.setattr("xfer.persistence._checksum", interrupted)
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


def test_packing_alone_changes_nothing(saved, data):
    """The control of the tests below: what they change is why a file is refused."""
    path, expected = saved
    pack(path, *unpack(path))
    edit_manifest(path)
    loaded = xfer.load(path.stem, path.parent)
    np.testing.assert_array_equal(loaded.predict_proba(data[0]), expected)


def test_every_byte_under_a_right_checksum_is_refused_or_harmless(saved, data):
    path, expected = saved
    archive = path.read_bytes()[:-64]
    random = np.random.RandomState(0)
    refused = 0
    # The archive's own directory, at the end, is where most of its structure is.
    for place in [
        *random.randint(len(archive), size=100),
        *range(len(archive) - 120, len(archive)),
    ]:
        changed = bytearray(archive)
        changed[place] ^= 1 << random.randint(8)
        seal(path, bytes(changed))
        try:
            loaded = xfer.load(path.stem, path.parent)
        except ValueError:
            refused += 1
        else:
            np.testing.assert_array_equal(loaded.predict_proba(data[0]), expected)
    assert refused > 110
    for length in (0, 1, 22, 1000, len(archive) - 1):
        seal(path, archive[:length])
        with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
            xfer.load(path.stem, path.parent)


def test_a_small_file_that_becomes_large_is_refused(saved):
    path, _ = saved
    schema, members = unpack(path)
    pack(path, schema, {**members, "large.npy": b"\0" * 10**7}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded: its parts have 10,"):
        xfer.load(path.stem, path.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "it has format 2, written by .*; xfer .* reads format 3: fit it again"),
        ({"class": "os.system"}, "import the module that defines os.system first"),
        ({"class": "xfer.repurposers.SvmRepurposer"}, "unexpected keyword argument"),
        ({"layers": ["fc1"]}, "source_model is not the network"),
        ({"network": {"kind": "other"}}, "its network is of the unknown kind 'other'"),
        ({"network": {}}, "kind"),
        ({"network": 3}, "."),
        ({"fingerprint": {"graph": "", "parameters": {}}}, "source_model is not the network"),
        ({"layers": None}, "."),
        ({"inputs": {"kind": "os"}}, "its inputs 'os' are damaged"),
        (
            {"inputs": {"kind": "ImageInputs", "size": "x"}},
            "its inputs 'ImageInputs' are damaged: .*size",
        ),
    ],
)
def test_a_tampered_manifest_is_refused(saved, changes, message):
    path, _ = saved
    edit_manifest(path, **changes)
    with pytest.raises(ValueError, match=rf"saved\.xfer cannot be loaded: .*{message}"):
        xfer.load(path.stem, path.parent)


def test_a_manifest_that_is_none_is_refused(saved):
    path, _ = saved
    schema, members = unpack(path)
    for content in ("[]", "null", '"{"', '"null"', '"[]"', "3"):
        schema["content"]["manifest"]["content"] = content
        pack(path, schema, members)
        with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
            xfer.load(path.stem, path.parent)
    for content in ("", "{}", "[]", "null", "{"):
        pack(path, content, members)
        with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
            xfer.load(path.stem, path.parent)


@pytest.mark.parametrize("name", ["cache", "context_function", "source_model"])
def test_a_file_sets_no_parameter_that_is_not_saved(saved, name):
    path, _ = saved
    schema, members = unpack(path)
    parameters = schema["content"]["parameters"]
    parameters["content"][name] = TEXT
    names = parameters["key_types"]["content"]
    names.append(names[0])
    pack(path, schema, members)
    with pytest.raises(ValueError, match=f"a file may not set {name}"):
        xfer.load(path)
    assert os.listdir(path.parent) == [path.name]


class Bomb:
    exploded = []

    def __reduce__(self):
        return Bomb.exploded.append, (1,)


def test_every_tampered_array_is_refused_or_harmless(saved, data):
    path, expected = saved
    schema, members = unpack(path)
    used = {
        node["file"]
        for name, node in schema["content"]["network"]["content"].items()
        if "conv1" in name or "bn1" in name
    }
    assert len(used) == 6 and len(members) > 10
    pickled, other = io.BytesIO(), io.BytesIO()
    np.save(pickled, np.array([Bomb()], dtype=object), allow_pickle=True)
    np.save(other, np.zeros(3, np.float32))
    for name in members:
        for content in (pickled.getvalue(), b"", b"\x93NUMPY", members[name][:-1]):
            pack(path, schema, {**members, name: content})
            with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
                xfer.load(path.stem, path.parent)
        pack(path, schema, {key: value for key, value in members.items() if key != name})
        with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
            xfer.load(path.stem, path.parent)
        pack(path, schema, {**members, name: other.getvalue()})
        if name in used:
            with pytest.raises(ValueError, match="source_model is not the network"):
                xfer.load(path.stem, path.parent)
        elif name in network_files(schema):
            loaded = xfer.load(path.stem, path.parent)
            np.testing.assert_array_equal(loaded.predict_proba(data[0]), expected)
    assert not Bomb.exploded


def network_files(schema):
    return {node["file"] for node in schema["content"]["network"]["content"].values()}


def test_a_tampered_graph_is_refused(saved):
    path, _ = saved
    original = path.read_bytes()

    def tampered(change):
        path.write_bytes(original)
        schema, _ = unpack(path)
        manifest = json.loads(json.loads(schema["content"]["manifest"]["content"]))
        change(manifest["network"]["graph"])
        edit_manifest(path, network=manifest["network"])
        with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
            xfer.load(path.stem, path.parent)

    tampered(lambda graph: graph["nodes"][3].update(inputs=[[99, 0, 0]]))
    tampered(lambda graph: graph["nodes"][3].update(inputs=[[3, 0, 0]]))
    tampered(lambda graph: graph["nodes"][3].update(op="NoSuchOperator"))
    tampered(lambda graph: graph.update(heads=[[1000, 0, 0]]))
    tampered(lambda graph: graph.update(nodes=[]))
    tampered(lambda graph: graph["nodes"][3].setdefault("attrs", {}).update(kernel="(5, 5)"))


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


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize("whole", [True, False])
def test_what_could_run_code_is_refused(saved, evil, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _ = saved
    schema, members = unpack(path)
    if not whole:
        schema["content"]["learned"]["content"]["meta_model"] = evil
    pack(path, evil if whole else schema, members)
    with pytest.raises(ValueError, match=r"saved\.xfer cannot be loaded"):
        xfer.load(path.stem, path.parent)
    assert os.listdir(tmp_path) == ["saved.xfer"]


def places(node, place=()) -> Iterator[tuple]:
    """Yield where the nodes of a schema are."""
    if isinstance(node, dict) and "__loader__" in node and place:
        yield place
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, child in children if isinstance(node, (dict, list)) else ():
        if isinstance(child, (dict, list)):
            yield from places(child, (*place, key))


def test_code_is_found_in_every_place_of_a_file(saved):
    path, _ = saved
    original, members = unpack(path)
    found = list(places(original))
    assert len(found) > 50
    evil = EVIL["a function"]
    for place in found:
        schema = json.loads(json.dumps(original))
        parent = schema
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = evil
        pack(path, schema, members)
        with pytest.raises(ValueError, match=r"it holds posix\.system \(FunctionNode\), which"):
            xfer.load(path)


def test_a_loader_that_is_not_allowed_is_found_where_skops_itself_would_trust(saved):
    """Inside a trusted file, a bound method of a trusted type passes the audit of old skops."""
    path, _ = saved
    schema, members = unpack(path)
    model = schema["content"]["learned"]["content"]["meta_model"]
    method = {**model, "__loader__": "MethodNode", "content": {"func": "fit", "obj": model}}
    schema["content"]["method"] = {key: v for key, v in method.items() if key != "__id__"}
    pack(path, schema, members)
    with pytest.raises(ValueError, match=r"it holds .*MethodNode.*, which"):
        xfer.load(path.stem, path.parent)


@pytest.mark.parametrize("loader", ["LossNode", "FunctionNode", "ObjectNode", "TreeNode"])
def test_nothing_is_imported_to_find_out_what_a_file_holds(saved, loader, tmp_path, monkeypatch):
    path, _ = saved
    (tmp_path / "unasked_for.py").write_text("class Loss: pass")
    monkeypatch.syspath_prepend(tmp_path)
    nothing = node("TupleNode", "tuple", [])
    evil = node(loader, "Loss", nothing, "unasked_for", __reduce__={"args": nothing})
    pack(path, evil, {})
    with pytest.raises(ValueError, match=r"it holds unasked_for.Loss"):
        xfer.load(path.stem, path.parent)
    assert "unasked_for" not in sys.modules


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("data/*.xfer")), ids=str)
def test_files_of_other_versions_load(path):
    """Each was written of a Module, beside the versions in its name; MXNet is not needed."""
    images = np.random.RandomState(0).normal(size=(7, 2, 6, 6)).astype(np.float32)
    expected = np.load(path.with_suffix(".npy"), allow_pickle=False)
    loaded = xfer.load(path)
    assert loaded.classes_.tolist() == ["autos", "guns", "hockey"]
    np.testing.assert_allclose(loaded.predict_proba(images), expected, atol=1e-5)


def test_a_regressor_comes_back_the_same(tmp_path):
    images, _ = xfer.example.digits()
    source, ink = xfer.load_checkpoint(xfer.example.checkpoint()), images.sum(axis=(1, 2, 3))
    regressor = xfer.MetaModelRegressor(source, "relu1", LinearRegression(), pooling="mean")
    regressor.fit(images[:50], ink[:50]).save_repurposer("ink", tmp_path)
    loaded = xfer.load("ink", tmp_path)
    np.testing.assert_array_equal(loaded.predict(images[:60]), regressor.predict(images[:60]))


PICTURES = xfer.ImageInputs(size=8, channels="gray", scale=1 / 16)
WORDS = xfer.Vocabulary.from_words(["</s>", "</ukw>", "good", "bad"])


def text_network():
    """Means of word vectors, which tell "good" from "bad"."""
    vectors = np.random.RandomState(0).normal(size=(4, 3)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Gather", ["vectors", "ids"], ["embedding"], name="embedding"),
        onnx.helper.make_node("ReduceMean", ["embedding"], ["mean"], axes=[1], keepdims=0),
    ]
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT32, ["n", 4])
    mean = onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, ["n", 3])
    weights = [onnx.numpy_helper.from_array(vectors, "vectors")]
    graph = onnx.helper.make_graph(nodes, "texts", [ids], [mean], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])


@pytest.mark.slow
def test_a_fresh_process_classifies_files_and_texts_with_nothing_else_given(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    images, digits = xfer.example.digits()
    paths = [str(tmp_path / f"{index}.png") for index in range(40)]
    for path, image in zip(paths, images):
        Image.fromarray(np.uint8(image[0] * 16)).save(path)
    source = xfer.load_checkpoint(xfer.example.checkpoint(), inputs=PICTURES)
    pictures = xfer.LrRepurposer(source, "relu2", pooling="max").fit(paths, digits[:40] % 2)
    pictures.save_repurposer("pictures", tmp_path)
    source = xfer.open_source(text_network(), inputs=xfer.TextInputs(WORDS, 4))
    texts = xfer.LrRepurposer(source, "mean").fit(
        ["Good", "bad", "good day", "a bad one"], [1, 0] * 2
    )
    texts.save_repurposer("texts", tmp_path)
    script = """
import json
import sys
import xfer

pictures, texts = xfer.load("pictures"), xfer.load("texts")
assert not {"torch", "dask", "mxnet"} & {*sys.modules}  # they take seconds
assert None not in sys.modules.values()
answers = pictures.predict_proba(sys.argv[1:]), texts.predict(["bad", "good"])
print(json.dumps([answer.tolist() for answer in answers]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *paths[:5]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(xfer.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    probabilities, answers = json.loads(done.stdout)
    np.testing.assert_allclose(probabilities, pictures.predict_proba(paths[:5]), atol=1e-6)
    assert answers == [0, 1]


def test_inputs_that_are_data_are_saved_and_others_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    monkeypatch.chdir(tmp_path)
    images, digits = xfer.example.digits()
    pictures = list(images[:40, 0])
    checkpoint = xfer.example.checkpoint()
    inputs = xfer.ImageInputs(size=8, channels="gray", scale=2)
    source = xfer.load_checkpoint(checkpoint, inputs=inputs)
    repurposer = xfer.LrRepurposer(source, "relu2", pooling="max").fit(pictures, digits[:40] % 2)
    repurposer.save_repurposer("whole")
    repurposer.save_repurposer("bare", save_source_model=False)
    bare = xfer.load_checkpoint(checkpoint)
    for name, options in [
        ("whole", {}),
        ("whole", {"inputs": inputs}),
        ("bare", {"source_model": bare}),
        ("bare", {"source_model": source}),
    ]:
        loaded = xfer.load(name, **options)
        assert loaded.features_.source_.inputs == inputs
        np.testing.assert_array_equal(loaded.predict(pictures), repurposer.predict(pictures))
    assert bare.inputs is None
    other = xfer.ImageInputs(size=8, channels="gray", scale=3)
    for name, options in [
        ("whole", {"inputs": other}),
        ("whole", {"preprocess": np.stack}),
        ("bare", {"source_model": xfer.load_checkpoint(checkpoint, inputs=other)}),
    ]:
        with pytest.raises(
            ValueError, match=r"fitted with ImageInputs\(size=.*scale=2.*but different inp"
        ):
            xfer.load(name, **options)


def halve(examples):
    return np.stack(examples) / 2


def test_a_function_must_be_given_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = source_cases.onnx_file(tmp_path).model
    images, labels = list(source_cases.IMAGES), ["a", "b", "c"] * 7
    source = xfer.open_source(model, preprocess=halve, padding_id=3)
    repurposer = xfer.LrRepurposer(source, "fc1").fit(images, labels)
    expected = repurposer.predict_proba(images)
    repurposer.save_repurposer("whole")
    repurposer.save_repurposer("without", save_source_model=False)
    ways = [
        ("whole", {"preprocess": halve}),
        ("whole", {"inputs": halve, "cache_key": "any"}),
        ("without", {"source_model": source}),
        ("without", {"source_model": model, "preprocess": halve}),
    ]
    for name, options in ways:
        loaded = xfer.load(name, **options)
        np.testing.assert_array_equal(loaded.predict_proba(images), expected)
        assert loaded.features_.source_.padding_id == 3
    for name, options in [("whole", {}), ("without", {"source_model": model})]:
        with pytest.raises(ValueError, match="are code, which a safe file cannot hold: give them"):
            xfer.load(name, **options)
    with pytest.raises(ValueError, match="give one of them"):
        xfer.load("whole", preprocess=halve, inputs=halve)
    xfer.LrRepurposer(model, "fc1").fit(np.stack(images), labels).save_repurposer("plain")
    for options in ({"preprocess": halve}, {"source_model": source}):
        with pytest.raises(ValueError, match="fitted without inputs or preprocess: leave them out"):
            xfer.load("plain", **options)


def test_a_function_of_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = source_cases.onnx_file(tmp_path).model
    source = xfer.open_source(model, preprocess=halve, cache_key="halves")
    images = list(source_cases.IMAGES)
    xfer.LrRepurposer(source, "fc1").fit(images, ["a", "b", "c"] * 7).save_repurposer("net")
    loaded = xfer.load("net", preprocess=halve, cache_key="halves")
    loaded.set_params(cache=tmp_path / "cache.sqlite").fit(images, ["a", "b", "c"] * 7)
    with pytest.raises(ValueError, match="its cache_key is 'halves', but got 'thirds'"):
        xfer.load("net", preprocess=halve, cache_key="thirds")
    # Whether an unnamed function is the same is not guessed: it runs, and no cache takes it.
    loaded = xfer.load("net", preprocess=halve)
    with pytest.raises(ValueError, match="cannot detect changes of function .*: give a cache_key"):
        loaded.set_params(cache=tmp_path / "cache.sqlite").fit(images, ["a", "b", "c"] * 7)


@pytest.mark.slow
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
        """Computes the same, in a class of another name."""

    other = Sequential()
    for name, part in net.named_children():
        other.add_module(name, part)
    with pytest.raises(ValueError, match=r"differs in its code or structure \(graph\)"):
        xfer.load("net", source_model=other)
    with torch.no_grad():
        net.conv1.bias[0] += 1
    with pytest.raises(ValueError, match="not the network it was fitted on: .*conv1.bias"):
        xfer.load("net", source_model=net)
    net.register_forward_pre_hook(lambda module, inputs: None)
    repurposer = xfer.LrRepurposer(net, "relu1").fit(images, labels)
    with pytest.raises(ValueError, match="xfer cannot detect .*cache_key"):
        repurposer.save_repurposer("net", save_source_model=False)
    source = xfer.open_source(net, cache_key="first")
    repurposer = xfer.LrRepurposer(source, "relu1").fit(images, labels)
    repurposer.save_repurposer("net", save_source_model=False)
    xfer.load("net", source_model=net, cache_key="first")
    with pytest.raises(ValueError, match="its cache_key is 'first', but got 'second'"):
        xfer.load("net", source_model=net, cache_key="second")
    with pytest.raises(ValueError, match="xfer cannot detect .*cache_key"):
        xfer.load("net", source_model=net)


SHIFTED = {
    "neighbors": (KNeighborsClassifier(3), "_y", lambda y: y + 10**9),
    "fractions": (KNeighborsClassifier(3), "_y", lambda y: y + 0.5),
    "negative": (KNeighborsClassifier(3), "_y", lambda y: y - 1),
    "too many": (KNeighborsClassifier(3), "n_neighbors", lambda n: 10**6),
    "counts": (SVC(), "_n_support", lambda n: n + np.int32([-(10**8), 10**8, 0])),
    "more counts": (SVC(), "_n_support", lambda n: np.append(n, np.zeros(10_000, np.int32))),
    "coefficients": (SVC(), "_dual_coef_", lambda a: a[:, :1].copy()),
    "intercepts": (SVC(), "_intercept_", lambda a: a[:0]),
    "vectors": (SVC(), "support_vectors_", lambda a: a[:, :-1].copy()),
    "regression": (SVR(), "_dual_coef_", lambda a: a[:, :1].copy()),
}


@pytest.mark.parametrize("name", SHIFTED)
def test_indices_that_compiled_code_would_follow_are_checked(name, module, data, tmp_path):
    model, attribute, change = SHIFTED[name]
    kind = xfer.MetaModelRegressor if isinstance(model, SVR) else xfer.MetaModelRepurposer
    repurposer = kind(module, "relu1", model).fit(*data)
    path = repurposer.save_repurposer("good", tmp_path)
    expected = repurposer.predict(data[0])
    np.testing.assert_array_equal(xfer.load(path).predict(data[0]), expected)
    fitted = repurposer.meta_model_
    setattr(fitted, attribute, change(getattr(fitted, attribute)))
    path = repurposer.save_repurposer("forged", tmp_path)
    with pytest.raises(ValueError, match=r"forged\.xfer cannot be loaded: "):
        xfer.load(path)


@pytest.mark.filterwarnings("ignore:n_neighbors")
def test_no_array_of_a_good_model_is_refused():
    X, y = np.random.RandomState(0).normal(size=(10, 3)), np.arange(10) % 2
    for model in (NuSVC(), NuSVR(), OneClassSVM(), LocalOutlierFactor(novelty=True)):
        check_compiled([model.fit(X, y)])
    check_compiled({"model": SVC(kernel="precomputed").fit(X @ X.T, y)})
    check_compiled(KNeighborsClassifier().fit(X, np.column_stack([y, y])))
