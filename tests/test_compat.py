"""`import xfer` lets MXNet 1.9.1 import beside any NumPy, and touches NumPy no sooner than that.

What is imported first decides everything here, so each test is a Python of its own.
"""

import importlib.util
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from xfer import _compat

NUMPY = tuple(int(number) for number in np.__version__.split(".")[:2])
needs_mxnet = pytest.mark.skipif(
    importlib.util.find_spec("mxnet") is None, reason="MXNet is not installed"
)


def run(code, **options):
    """Run `code` in a new Python, which must succeed; return what it prints."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def stub_mxnet(tmp_path):
    """Return a folder with a package ``mxnet`` that prints the names NumPy gained, then fails."""
    (tmp_path / "mxnet").mkdir()
    (tmp_path / "mxnet" / "__init__.py").write_text(
        "import numpy\n"
        "from xfer import _compat\n"
        "print(sorted(_compat._replacements(numpy).keys() - vars(numpy).keys()))\n"
        "raise ImportError('as told')\n"
    )
    return tmp_path


@needs_mxnet
def test_mxnet_alone_fails_on_new_numpy():
    """The control: were this to pass on NumPy 1.24, the module under test would be needless."""
    outcome = run("""
        try:
            import mxnet
        except AttributeError:
            print("fails")
        """)
    assert outcome == ("fails" if NUMPY >= (1, 24) else "")


@needs_mxnet
def test_mxnet_imports_after_xfer_and_leaves_three_names_at_most():
    run("""
        import numpy as np
        before = set(vars(np))
        import xfer
        import mxnet as mx
        from xfer import _compat

        gained = set(vars(np)) - before
        assert gained & _compat._replacements(np).keys() <= {"bool", "Inf", "compat"}, gained
        if tuple(map(int, np.__version__.split(".")[:2])) < (1, 24):
            assert "bool" not in vars(np)
        assert (mx.nd.ones((2, 3)) * 2 + 1).asnumpy().tolist() == [[3.0] * 3] * 2
        """)


def test_import_xfer_leaves_mxnet_unimported_and_numpy_as_it_was():
    run("""
        import importlib.util, sys
        import numpy as np
        before = dict(vars(np))
        import xfer
        from xfer import _compat

        importlib.util.find_spec("mxnet")
        assert not [name for name in sys.modules if name.split(".")[0] == "mxnet"]
        for name in _compat._replacements(np):
            assert vars(np).get(name) is before.get(name), name
        """)


def test_import_xfer_imports_nothing_heavy_and_every_public_name_is_there():
    run("""
        import sys
        import xfer

        heavy = {"mxnet", "numpy", "onnxruntime", "scipy", "skops", "sklearn", "torch"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        for name in xfer.__all__:
            assert getattr(xfer, name).__doc__, name
        assert set(xfer.__all__) <= set(dir(xfer))
        assert xfer.plots is sys.modules["xfer.plots"] and "matplotlib" not in sys.modules
        assert "mxnet" not in sys.modules
        try:
            xfer.LRRepurposer
        except AttributeError as error:
            assert str(error) == "module 'xfer' has no attribute 'LRRepurposer'"
        else:
            raise AssertionError("resolved")
        """)


def test_compat_itself_imports_no_numpy():
    path = importlib.util.find_spec("xfer._compat").origin
    run(f"""
        import importlib.util, runpy, sys
        runpy.run_path({path!r})["install"]()
        importlib.util.find_spec("mxnet")
        assert "numpy" not in sys.modules
        """)


@needs_mxnet
def test_mxnet_imports_after_a_failed_attempt():
    run("""
        import sys
        try:
            import mxnet
        except AttributeError:
            assert "mxnet" not in sys.modules
        import xfer
        import mxnet as mx

        assert mx.context is sys.modules["mxnet.context"] and mx.util is sys.modules["mxnet.util"]
        assert mx.nd.ones(3).sum().asscalar() == 3
        """)


def test_names_are_taken_away_when_the_import_fails(stub_mxnet):
    outcome = run(
        f"""
        import sys
        sys.path.insert(0, {str(stub_mxnet)!r})
        import numpy as np
        import xfer
        from xfer import _compat

        before = set(vars(np))
        for _ in range(2):
            try:
                import mxnet
            except ImportError as error:
                assert str(error) == "as told"
        gained = set(vars(np)) - before
        assert gained & _compat._replacements(np).keys() <= {{"bool", "Inf", "compat"}}, gained
        """
    )
    if NUMPY >= (1, 24):
        assert outcome == "[]\n[]"


def test_absent_mxnet_is_reported_as_ever():
    run("""
        import sys
        import xfer
        from xfer import _compat

        sys.meta_path[:] = [f for f in sys.meta_path if isinstance(f, _compat._MXNetFinder)]
        try:
            import mxnet
        except ModuleNotFoundError as error:
            assert error.name == "mxnet"
        else:
            raise AssertionError("imported")
        """)


def test_install_twice_adds_one_finder_at_the_front():
    run("""
        import sys
        import xfer
        from xfer import _compat

        _compat.install()
        finders = [isinstance(finder, _compat._MXNetFinder) for finder in sys.meta_path]
        assert finders[0] and sum(finders) == 1
        """)


@needs_mxnet
def test_training_and_prediction_work(tmp_path):
    """An MLP learns which side of a line its points lie on, is saved, loaded and agrees."""
    run(
        """
        import xfer
        import mxnet as mx
        import numpy as np

        np.random.seed(0)
        mx.random.seed(0)
        x = np.random.randn(250, 5).astype("float32")
        y = (x[:, 0] + x[:, 1] > 0).astype("float32")
        hidden = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=16)
        hidden = mx.sym.Activation(hidden, act_type="relu")
        net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(hidden, num_hidden=2), name="softmax")
        points = mx.io.NDArrayIter(x, y, 50, shuffle=True)
        module = mx.mod.Module(net)
        module.fit(points, num_epoch=10, optimizer="adam", initializer=mx.init.Xavier(),
                   optimizer_params={"learning_rate": 0.02})
        assert dict(module.score(points, mx.metric.Accuracy()))["accuracy"] > 0.95

        module.save_checkpoint("mlp", 1)
        loaded = mx.mod.Module.load("mlp", 1)
        rest = mx.io.NDArrayIter(x, None, 60)
        assert [batch.pad for batch in rest] == [0, 0, 0, 0, 50]
        loaded.bind(rest.provide_data, for_training=False)
        found = loaded.predict(rest).asnumpy()
        assert found.shape == (250, 2)
        assert ((found[:, 1] > 0.5) == y).mean() > 0.95

        dense = mx.gluon.nn.Dense(2)
        dense.initialize()
        dense.hybridize()
        data = mx.nd.array(x)
        data.attach_grad()
        with mx.autograd.record():
            total = (dense(data) ** 2).sum()
        total.backward()
        assert np.abs(data.grad.asnumpy()).sum() > 0
        """,
        cwd=tmp_path,
    )


@needs_mxnet
def test_names_needed_after_the_import_are_still_there():
    run("""
        import xfer
        import mxnet as mx
        import numpy as np
        from mxnet.gluon.contrib import estimator

        estimator.EarlyStoppingHandler(mx.metric.MSE(), mode="min").train_begin(None)
        with mx.util.np_shape(True):
            a = mx.np.arange(4.0)
            assert a[a > 1].asnumpy().tolist() == [2, 3]
            assert mx.np.full((2,), True).dtype == bool
            assert mx.np.zeros(2, dtype=mx.np.bool).dtype == bool
            assert mx.np.pad(mx.np.ones((2, 2)), ((1, 1), (1, 1)), mode="constant").sum() == 4
        """)


@needs_mxnet
def test_functions_restored_displace_no_function_of_mxnet():
    run("""
        import xfer
        import mxnet as mx
        import numpy as np
        from mxnet.numpy.multiarray import _NUMPY_ARRAY_FUNCTION_DICT as table

        for name in ("all", "any", "prod", "sort"):
            assert table[getattr(np, name)] is getattr(mx.np, name), name
        a = mx.np.array([[1.0, 2.0], [3.0, 4.0]])
        assert isinstance(np.prod(a, axis=0), mx.np.ndarray)
        assert mx.np.product(a, axis=0).asnumpy().tolist() == [3, 8]
        """)


def test_replacements_do_what_the_removed_did():
    names = _compat._replacements(np)
    a = np.array([[3.0, 1.0], [2.0, 4.0]])
    assert names["in1d"](a, [1.0, 2.0], invert=True).tolist() == [True, False, False, True]
    assert names["msort"](a).tolist() == [[2, 1], [3, 4]]
    assert names["product"](a) == 24
    assert names["round_"](1.26, 1) == 1.3
    assert names["sometrue"]([0, 1]) and not names["alltrue"]([0, 1])
    assert names["NINF"] == -np.inf and names["PINF"] == names["Inf"] == np.inf
    assert np.isnan([names["NAN"], names["NaN"]]).all()
    assert not np.signbit(names["PZERO"]) and np.signbit(names["NZERO"])
    assert np.dtype(names["bool"]) == np.dtype(bool)
    assert isinstance("mode", names["compat"].basestring)
    if NUMPY >= (2, 0):
        assert names["trapz"]([3.0, 1.0, 2.0]) == 3.5
    with pytest.raises(NotImplementedError, match=r"numpy_financial\.npv"):
        names["npv"](0.1, [1, 2])


def test_only_missing_names_are_restored():
    missing = _compat._missing_names(np)
    assert not missing.keys() & vars(np).keys()
    assert None not in missing.values()
    assert missing or NUMPY < (1, 24)


@needs_mxnet
def test_mxnet_says_nothing_on_a_bind_and_still_tells_its_errors():
    code = """
        import os

        import xfer
        import mxnet as mx

        inner = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=2, name="inner")
        module = mx.mod.Module(mx.sym.SoftmaxOutput(inner, name="softmax"))
        data = mx.io.NDArrayIter(mx.nd.ones((4, 3)), mx.nd.zeros(4), 2)
        module.fit(data, num_epoch=1)
        module.predict(data)
        xfer.open_source(module).extract(data, "inner")
        os.write(2, b"quiet so far\\n")
        module.bind([("data", (2, 7))], for_training=False, force_rebind=True)
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert done.stderr.startswith("quiet so far"), done.stderr
    assert "expected [2,3], got [2,7]" in done.stderr
