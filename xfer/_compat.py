"""Let Apache MXNet 1.9.1 import beside a NumPy newer than 1.23.

MXNet is retired, and its import uses names NumPy has since removed: ``np.bool`` in 1.24 and some
twenty more by 2.4. `install` gives them back while MXNet is imported and then takes them away, save
the few MXNet needs later. A program that never imports MXNet keeps its NumPy untouched.
"""

import functools
import os
import sys
import types

# Looked up whenever MXNet runs: `bool` to index and fill `mx.np` arrays, `Inf` by
# `gluon.contrib.estimator`, `compat` by `mx.np.pad`. All others are needed by its import alone.
_NEEDED_LATER = {"bool", "Inf", "compat"}


def install():
    """Restore what MXNet needs of NumPy when, and only when, MXNet is imported.

    MXNet is also told not to print a line on each bind of a Module, unless the environment says
    otherwise. Imports neither, and may be called again. It also helps after ``import mxnet`` has
    failed: the next attempt starts afresh. Below NumPy 1.24 nothing is missing, and NumPy is left
    alone.

    Notes
    -----
    A process started afresh (``spawn``) must import this package too before it imports MXNet.
    """
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
    if not any(isinstance(finder, _MXNetFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MXNetFinder())


class _MXNetFinder:
    """Find MXNet where Python would, and wrap the execution of its top-level module.

    It acts when MXNet is executed, not when it is found, so that asking whether MXNet is installed
    (``importlib.util.find_spec("mxnet")``) neither imports nor changes NumPy.
    """

    def find_spec(self, fullname, path=None, target=None):
        """Return the ordinary spec of ``mxnet``, wrapped; None for every other module."""
        if fullname != "mxnet":
            return None
        later_finders = sys.meta_path[sys.meta_path.index(self) + 1 :]
        specs = (finder.find_spec(fullname, path, target) for finder in later_finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            # A source loader belongs to one spec, so this changes how no other module is executed.
            spec.loader.exec_module = functools.partial(_execute, spec.loader.exec_module)
        return spec


def _execute(exec_module, module):
    """Execute MXNet's top-level module while NumPy has the names it needs."""
    import numpy as np

    if not hasattr(module, "__version__"):  # a first import, not `importlib.reload`
        _forget_failed_import()
    missing = _missing_names(np)
    vars(np).update(missing)
    try:
        exec_module(module)
    finally:
        for name in missing.keys() - _NEEDED_LATER:
            vars(np).pop(name, None)


def _forget_failed_import():
    """Drop the submodules that a failed import of MXNet has left behind.

    Python drops the package alone. Its successor would find the old submodules without gaining
    them as attributes: ``mx.context`` and ``mx.util`` would not exist.
    """
    for name in [name for name in sys.modules if name.startswith("mxnet.")]:
        del sys.modules[name]


def _missing_names(np):
    """Return the names MXNet uses and this NumPy lacks, each with its replacement."""
    if tuple(int(number) for number in np.__version__.split(".")[:2]) < (1, 24):
        return {}
    # Not hasattr: NumPy answers for some names it has removed, with a warning.
    return {name: value for name, value in _replacements(np).items() if name not in vars(np)}


def _replacements(np):
    """Return every removed name MXNet uses, with what NumPy recommends in its place.

    MXNet keys a table by NumPy function, so a restored function must not be one already in it:
    ``product`` would overwrite the entry of ``prod``. Hence the partials without arguments.
    """
    return {
        "bool": np.bool_,  # what NumPy 2 calls bool; the builtin of old does MXNet no better
        "Inf": np.inf,
        "NAN": np.nan,
        "NINF": -np.inf,
        "NZERO": -0.0,
        "NaN": np.nan,
        "PINF": np.inf,
        "PZERO": 0.0,
        "alltrue": functools.partial(np.all),
        "compat": types.SimpleNamespace(basestring=str),
        "in1d": lambda ar1, ar2, *args, **kwargs: np.isin(np.ravel(ar1), ar2, *args, **kwargs),
        "msort": functools.partial(np.sort, axis=0),
        "product": functools.partial(np.prod),
        "round_": functools.partial(np.round),
        "sometrue": functools.partial(np.any),
        "trapz": getattr(np, "trapezoid", None),  # only NumPy without trapezoid has trapz itself
        **{name: _financial(name) for name in ("mirr", "npv", "pmt", "ppmt", "pv", "rate")},
    }


def _financial(name):
    """Return a stand-in for a function NumPy moved out in 1.20: MXNet only passes it on."""

    def function(*args, **kwargs):
        raise NotImplementedError(f"NumPy no longer has {name}: use numpy_financial.{name}")

    return function
