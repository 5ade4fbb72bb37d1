"""What the tests share: real networks, real data, and small networks made on the spot."""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

# It imports torch; the tests that need torch skip by themselves.
collect_ignore = [] if find_spec("torch") else ["torch_resnet.py"]


# Packages that the examples in docstrings need, by the start of their name.
_EXAMPLES_WITH = {
    "xfer.plots": "matplotlib",
    "xfer.inputs.ImageInputs": "PIL",
    "xfer.training": "torch",
}
_WITH_TORCH = re.compile(r"import torch|example\.network\(\)")


def pytest_collection_modifyitems(items):
    """Mark what needs MXNet, and skip it where there is none."""
    for item in items:
        examples = item.dtest.examples if isinstance(item, pytest.DoctestItem) else ()
        if "mx" in getattr(item, "fixturenames", ()) or any(
            "import mxnet" in example.source for example in examples
        ):
            item.add_marker(pytest.mark.mxnet)
        uses_torch = any(_WITH_TORCH.search(example.source) for example in examples)
        needed = [package for name, package in _EXAMPLES_WITH.items() if item.name.startswith(name)]
        for package in [*needed, *(["torch"] if uses_torch else [])]:
            if examples and find_spec(package) is None:
                item.add_marker(pytest.mark.skip(reason=f"needs {package}"))
        if item.get_closest_marker("mxnet") and find_spec("mxnet") is None:
            item.add_marker(pytest.mark.skip(reason="needs MXNet"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With XFER_NO_SKIPS, fail tests of real models and data that were skipped for any reason."""
    report = yield
    strict = os.environ.get("XFER_NO_SKIPS") and "shared" in getattr(item, "fixturenames", ())
    if strict and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which XFER_NO_SKIPS forbids: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def shared():
    """Folder of real models and data; without one, the tests that need it are skipped."""
    named = os.environ.get("XFER_TEST_DATA")
    folder = Path(named or Path(__file__).parents[1] / ".." / "shared")
    if not (folder / "models").is_dir():
        message = f"no real models and data in {folder}; XFER_TEST_DATA says where they are"
        pytest.fail(message) if named else pytest.skip(message)
    return folder


@pytest.fixture(autouse=True)
def no_figures_stay_open():
    """Close what a test has drawn."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def mx():
    """MXNet, where it is installed."""
    return pytest.importorskip("mxnet")


def convolutional_symbol(mx):
    """A small image network: two convolutions with a branch, batch norm, pooling, two outputs."""
    data = mx.sym.var("data")
    first = mx.sym.Convolution(data, kernel=(3, 3), pad=(1, 1), num_filter=4, name="conv1")
    norm = mx.sym.BatchNorm(first, fix_gamma=False, name="bn1")
    active = mx.sym.Activation(norm, act_type="relu", name="relu1")
    second = mx.sym.Convolution(active, kernel=(3, 3), pad=(1, 1), num_filter=4, name="conv2")
    joined = mx.sym.elemwise_add(second, active, name="joined")
    halves = mx.sym.SliceChannel(joined, num_outputs=2, name="halves")
    pooled = mx.sym.Pooling(halves[0] - halves[1], global_pool=True, kernel=(1, 1), name="pool")
    dropped = mx.sym.Dropout(mx.sym.Flatten(pooled, name="flat"), p=0.5, name="dropout0")
    scores = mx.sym.FullyConnected(dropped, num_hidden=3, name="fc1")
    return mx.sym.SoftmaxOutput(scores, name="softmax")


def bound_module(mx, symbol, shapes, seed=0, for_training=True, **options):
    """A Module with random parameters, bound to `shapes` (name to shape with the batch)."""
    module = mx.mod.Module(symbol, data_names=list(shapes), **options)
    labels = [(name, (next(iter(shapes.values()))[0],)) for name in module.label_names]
    labels = [label for label in labels if label[0] in symbol.list_arguments()]
    module.bind(list(shapes.items()), labels or None, for_training=for_training)
    random = np.random.RandomState(seed)
    module.init_params(mx.init.Zero())
    arguments, statistics = module.get_params()
    for name, array in {**arguments, **statistics}.items():
        values = random.normal(size=array.shape, scale=0.5)
        array[:] = np.abs(values) + 0.5 if name.endswith("_var") else values
    module.set_params(arguments, statistics)
    return module


@pytest.fixture
def module(mx):
    """A small bound image Module with labels; input (n, 2, 6, 6)."""
    return bound_module(mx, convolutional_symbol(mx), {"data": (8, 2, 6, 6)})


@pytest.fixture
def images():
    """21 random images, which fill no whole number of batches of 8."""
    return np.random.RandomState(1).normal(size=(21, 2, 6, 6)).astype(np.float32)


def load_module(mx, shared, name, epoch, **options):
    """A real Module from the shared models, loaded and not bound."""
    return mx.mod.Module.load(str(shared / "models" / name), epoch, **options)


def cifar_input(images):
    """Images (n, 32, 32, 3) of bytes as the CIFAR networks take them."""
    scaled = (images / 255 - [0.4914, 0.4822, 0.4465]) / [0.2023, 0.1994, 0.2010]
    return scaled.transpose(0, 3, 1, 2).astype(np.float32)
