"""Any kind of data, labels, network and verb: the numbers of the plain array, or a clear error.

XFER_EXAMPLES=5000 tries more than the default.
"""

import os
from importlib.util import find_spec

import numpy as np
import pytest

import xfer
from xfer.cli import main
from xfer.sources import Layer, SourceModel

hypothesis = pytest.importorskip("hypothesis")
torch = pytest.importorskip("torch")
pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

MANY = settings(
    max_examples=int(os.environ.get("XFER_EXAMPLES", 40)),
    deadline=None,
    derandomize="XFER_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
IMAGES, DIGITS = xfer.example.digits()
CHOSEN = [np.flatnonzero(digit == DIGITS)[:30] for digit in (3, 5, 8)]
TRAIN = np.concatenate([rows[:10] for rows in CHOSEN])
TEST = np.concatenate([rows[10:] for rows in CHOSEN])


def torch_network():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers)


class Doubled(SourceModel):
    """A network of the user's own."""

    layers = [Layer("double", "Mul", (1, 16, 16), 0)]
    input_names = ["data"]

    def _forward(self, inputs, layers):
        return [2 * inputs["data"].astype(np.float32) for _ in layers]


def module(prefix):
    mx = pytest.importorskip("mxnet")
    found = mx.mod.Module.load(str(prefix), 0, label_names=None)
    found.bind([("data", (10, 1, 16, 16))], for_training=False)
    return found


def sources(tmp_path_factory):
    prefix = xfer.example.checkpoint()
    folder = tmp_path_factory.mktemp("verbs")
    checkpoint = xfer.load_checkpoint(prefix)
    main(["convert", str(prefix), str(folder / "digits.onnx"), "--layer", "relu2"])
    return {
        "checkpoint": (checkpoint, "relu2"),
        "onnx": (xfer.open_source(folder / "digits.onnx"), None),
        "torch": (xfer.open_source(torch_network()), "1"),
        "own": (Doubled(), "double"),
    } | ({"module": (module(prefix), "relu2")} if "module" in NETWORKS else {})


def batches(x, y):
    for start in range(0, len(x), 7):
        yield (x[start : start + 7],) if y is None else (x[start : start + 7], y[start : start + 7])


def loader(x, y):
    tensors = [torch.from_numpy(np.ascontiguousarray(x))]
    tensors += [] if y is None else [torch.from_numpy(np.asarray(y))]
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=8)


#: Data of the same examples; those with True bring integer labels along.
DATA = {
    "array": (lambda x, y: x, False),
    "float64": (lambda x, y: x.astype(np.float64), False),
    "Fortran order": (lambda x, y: np.asfortranarray(x), False),
    "every second of twice as many": (lambda x, y: np.repeat(x, 2, axis=0)[::2], False),
    "read-only": (lambda x, y: read_only(x), False),
    "big-endian": (lambda x, y: x.astype(">f4"), False),
    "float16": (lambda x, y: x.astype(np.float16), False),  # sixteenths, which it has exactly
    "tensor": (lambda x, y: torch.from_numpy(x.copy()), False),
    "dict": (lambda x, y: {"data": x}, False),  # for the torch network {"input": x}
    "list": (lambda x, y: list(x), False),
    "nested lists": (lambda x, y: x.tolist(), False),
    "DataLoader": (loader, True),
    "generator": (batches, True),
    "list of batches": (lambda x, y: list(batches(x, y)), True),
}
#: The same three classes; the function returns the labels for class indices.
LABELS = {
    "int64": lambda k: k,
    "list": lambda k: k.tolist(),
    "far apart": lambda k: np.array([-(2**40), 0, 2**40])[k],
    "strings": lambda k: np.array(["a cat", "b dog", "öre"])[k],
    "objects": lambda k: np.array(["a cat", "b dog", "öre"], object)[k],
    "floats": lambda k: k.astype(float),
    "tensor": lambda k: torch.from_numpy(k.copy()),
    "pandas": lambda k: pandas.Series(k, index=np.arange(len(k))[::-1]),
    "categories": lambda k: pandas.Series(np.array(["x", "y", "z"])[k], dtype="category"),
    "polars": lambda k: polars.Series(np.array(["x", "y", "z"])[k]),
    "column": lambda k: k[:, None],
    "missing": lambda k: np.where(k == 1, np.nan, k.astype(float)),
    "one class": lambda k: np.zeros_like(k),
    "too few": lambda k: k[:-1],
}
REFUSED = {"missing", "one class", "too few"}
HEADS = {
    "lr": lambda *given: xfer.LrRepurposer(*given, pooling="max"),
    "svm": lambda *given: xfer.SvmRepurposer(*given, pooling="max"),
    "gp": lambda *given: xfer.GpRepurposer(*given, pooling="max"),
    "auto": lambda *given: xfer.AutoRepurposer(*given),
}
NETWORKS = ["checkpoint", "onnx", "torch", "own", *["module"] * bool(find_spec("mxnet"))]
VERBS = ["predict", "predict_proba", "score", "predict_label", "predict_probability"]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return sources(tmp_path_factory)


@pytest.fixture(scope="module")
def fitted(networks):
    """Repurposers on the plain array, by network and head."""
    found = {}

    def get(network, head):
        if (network, head) not in found:
            source, layer = networks[network]
            found[network, head] = new(source, layer, head).fit(IMAGES[TRAIN], classes(TRAIN))
        return found[network, head]

    return get


def named(data, network):
    is_dict = isinstance(data, dict) and network == "torch"
    return {"input": data["data"]} if is_dict else data


def new(source, layer, head):
    return HEADS[head](source, layer or source.layer_names[-1])


def classes(rows):
    return np.searchsorted([3, 5, 8], DIGITS[rows])


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
@MANY
@given(*map(st.sampled_from, map(list, (NETWORKS, HEADS, DATA, LABELS))))
def test_fitting(networks, fitted, network, head, data, labels):
    plain, (make, brings_labels) = fitted(network, head), DATA[data]
    repurposer, k = new(*networks[network], head), classes(TRAIN)
    y = LABELS[labels](k)
    if brings_labels:
        given = (make(IMAGES[TRAIN], k),)
        labels, y = "int64", k
    else:
        given = (named(make(IMAGES[TRAIN], None), network), y)
    if labels in REFUSED:
        with pytest.raises((ValueError, TypeError), match=r"label|class|y |NaN"):
            repurposer.fit(*given)
        assert not hasattr(repurposer, "classes_")
        before = plain.predict_proba(IMAGES[TEST])
        with pytest.raises((ValueError, TypeError)):
            plain.fit(*given)
        np.testing.assert_array_equal(plain.predict_proba(IMAGES[TEST]), before)
        return
    repurposer.fit(*given)
    expected = plain.predict_proba(IMAGES[TEST])
    np.testing.assert_allclose(repurposer.predict_proba(IMAGES[TEST]), expected, atol=1e-5)
    names = np.asarray(LABELS[labels](np.arange(3))).ravel()
    assert repurposer.classes_.tolist() == names.tolist()
    right = names[plain.predict(IMAGES[TEST])]
    assert repurposer.predict(IMAGES[TEST]).tolist() == right.tolist()


@MANY
@given(*map(st.sampled_from, map(list, (NETWORKS, HEADS, DATA, VERBS))), st.integers(0, 60))
def test_predicting(fitted, network, head, data, verb, n):
    repurposer, (make, brings_labels) = fitted(network, head), DATA[data]
    x, k = IMAGES[TEST][:n], classes(TEST)[:n]
    expected = getattr(repurposer, verb)(*((x, k) if verb == "score" else (x,))) if n else None
    if verb == "score":
        given = (make(x, k),) if brings_labels else (named(make(x, None), network), k)
    else:
        given = (named(make(x, k if brings_labels and n % 2 else None), network),)
    if n == 0:
        try:
            found = getattr(repurposer, verb)(*given)
        except (ValueError, TypeError) as error:
            assert str(error)  # noqa: PT017
        else:
            assert verb != "score" and len(found) == 0
        return
    found = getattr(repurposer, verb)(*given)
    np.testing.assert_allclose(found, expected, atol=1e-5)
