"""`import xfer` lets MXNet 1.9.1 import beside any NumPy, and touches NumPy no sooner than that.

What is imported first decides everything here, so most tests start a new Python.
"""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from xfer import _mxnet_numpy

NUMPY = tuple(int(part) for part in np.__version__.split(".")[:2])


def run(code, **options):
    """Run `code` in a new Python, which must succeed; return what it prints."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.mxnet
def test_mxnet_works_after_a_failed_import_and_leaves_three_names_at_most():
    outcome = run("""
        import sys
        import numpy as np
        before = set(vars(np))
        try:
            import mxnet
        except AttributeError:
            print("fails without xfer")
            assert "mxnet" not in sys.modules
        import xfer
        import mxnet as mx
        from xfer import _mxnet_numpy

        gained = set(vars(np)) - before
        assert gained & _mxnet_numpy._replacements(np).keys() <= {"bool", "Inf", "compat"}, gained
        assert mx.context is sys.modules["mxnet.context"] and mx.util is sys.modules["mxnet.util"]
        assert (mx.nd.ones((2, 3)) * 2 + 1).asnumpy().tolist() == [[3.0] * 3] * 2
        """)
    # On NumPy 1.24 and later the module under test must be needed.
    assert outcome == ("fails without xfer" if NUMPY >= (1, 24) else "")


def test_import_xfer_leaves_mxnet_unimported_and_numpy_as_it_was():
    run("""
        import importlib.util, sys
        import numpy as np
        before = dict(vars(np))
        import xfer
        from xfer import _mxnet_numpy

        _mxnet_numpy.install()
        finders = [isinstance(finder, _mxnet_numpy._MXNetFinder) for finder in sys.meta_path]
        assert finders[0] and sum(finders) == 1
        importlib.util.find_spec("mxnet")
        assert not [name for name in sys.modules if name.split(".")[0] == "mxnet"]
        for name in _mxnet_numpy._replacements(np):
            assert vars(np).get(name) is before.get(name), name
        """)


def test_names_are_removed_when_the_import_fails(tmp_path):
    (tmp_path / "mxnet").mkdir()
    (tmp_path / "mxnet" / "__init__.py").write_text(
        "import numpy\n"
        "from xfer import _mxnet_numpy\n"
        "print(sorted(_mxnet_numpy._replacements(numpy).keys() - vars(numpy).keys()))\n"
        "raise ImportError('as told')\n"
    )
    outcome = run(
        f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import numpy as np
        import xfer
        from xfer import _mxnet_numpy

        before = set(vars(np))
        for _ in range(2):
            try:
                import mxnet
            except ImportError as error:
                assert str(error) == "as told"
        gained = set(vars(np)) - before
        assert gained & _mxnet_numpy._replacements(np).keys() <= {{"bool", "Inf", "compat"}}
        """
    )
    if NUMPY >= (1, 24):
        assert outcome == "[]\n[]"


def test_a_missing_mxnet_is_a_module_not_found_error():
    run("""
        import sys
        import xfer
        from xfer import _mxnet_numpy

        sys.meta_path[:] = [f for f in sys.meta_path if isinstance(f, _mxnet_numpy._MXNetFinder)]
        try:
            import mxnet
        except ModuleNotFoundError as error:
            assert error.name == "mxnet"
        else:
            raise AssertionError("imported")
        """)


@pytest.mark.mxnet
def test_training_and_prediction_work(tmp_path):
    """An MLP learns on which side of a line its points lie, is saved, loaded and agrees."""
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


@pytest.mark.mxnet
def test_names_needed_after_the_import_are_still_there():
    run("""
        import xfer
        import mxnet as mx
        import numpy as np
        from mxnet.gluon.contrib import estimator
        from mxnet.numpy.multiarray import _NUMPY_ARRAY_FUNCTION_DICT as table

        estimator.EarlyStoppingHandler(mx.metric.MSE(), mode="min").train_begin(None)
        with mx.util.np_shape(True):
            a = mx.np.arange(4.0)
            assert a[a > 1].asnumpy().tolist() == [2, 3]
            assert mx.np.full((2,), True).dtype == bool
            assert mx.np.zeros(2, dtype=mx.np.bool).dtype == bool
            assert mx.np.pad(mx.np.ones((2, 2)), ((1, 1), (1, 1)), mode="constant").sum() == 4
        for name in ("all", "any", "prod", "sort"):  # no restored function took their place
            assert table[getattr(np, name)] is getattr(mx.np, name), name
        assert isinstance(np.prod(mx.np.ones((2, 2)), axis=0), mx.np.ndarray)
        """)


def test_replacements_do_what_the_removed_did():
    names = _mxnet_numpy._replacements(np)
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
    with pytest.raises(NotImplementedError, match="numpy_financial"):
        names["npv"](0.1, [1, 2])


def test_only_missing_names_are_restored():
    missing = _mxnet_numpy._missing_names(np)
    assert not missing.keys() & vars(np).keys()
    assert None not in missing.values()
    assert missing or NUMPY < (1, 24)


@pytest.mark.mxnet
def test_mxnet_is_quiet_on_a_bind_and_still_reports_its_errors():
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
