"""Let Apache MXNet 1.9.1 import beside NumPy 1.24 to 2.4.

MXNet is retired, and its import uses names that NumPy has since removed: ``np.bool`` in 1.24 and
some twenty more by 2.4. They are restored while MXNet is imported and then removed again, except
the few that MXNet needs later. A program that never imports MXNet keeps its NumPy untouched.
"""

import functools
import os
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

# Looked up whenever MXNet runs: `bool` to index and fill `mx.np` arrays, `Inf` by
# `gluon.contrib.estimator`, `compat` by `mx.np.pad`. All others are needed by the import alone.
_NEEDED_LATER = {"bool", "Inf", "compat"}


def install() -> None:
    """Restore what MXNet needs of NumPy when, and only when, MXNet is imported.

    Also stops MXNet from printing a line on each bind, unless MXNET_SUBGRAPH_VERBOSE is set. A
    process started afresh (``spawn``) must import xfer before it imports MXNet, too.
    """
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
    if not any(isinstance(finder, _MXNetFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MXNetFinder())


class _MXNetFinder:
    """Find MXNet where Python would, and wrap the execution of its top-level module.

    NumPy changes when MXNet is executed, not when it is found, so that
    ``importlib.util.find_spec("mxnet")`` has no side effect.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the ordinary spec of ``mxnet``, wrapped; None for every other module."""
        if fullname != "mxnet":
            return None
        later_finders = sys.meta_path[sys.meta_path.index(self) + 1 :]
        specs = (finder.find_spec(fullname, path, target) for finder in later_finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            # Each spec has a loader of its own, so no other module is executed differently.
            execute = functools.partial(_execute, spec.loader.exec_module)
            spec.loader.exec_module = execute  # type: ignore[method-assign]
        return spec


def _execute(exec_module: Callable[[types.ModuleType], None], module: types.ModuleType) -> None:
    """Execute MXNet's top-level module while NumPy has the names it needs."""
    import numpy as np

    # A failed import leaves submodules behind, which the next attempt would not bind to `mxnet`.
    for name in [name for name in sys.modules if name.startswith("mxnet.")]:
        del sys.modules[name]
    missing = _missing_names(np)
    vars(np).update(missing)
    try:
        exec_module(module)
    finally:
        for name in missing.keys() - _NEEDED_LATER:
            vars(np).pop(name, None)


def _missing_names(np: types.ModuleType) -> dict[str, Any]:
    """Return the names that MXNet uses and this NumPy lacks, each with its replacement."""
    if tuple(int(part) for part in np.__version__.split(".")[:2]) < (1, 24):
        return {}
    # Not hasattr: NumPy answers for some removed names, with a warning.
    return {name: value for name, value in _replacements(np).items() if name not in vars(np)}


def _replacements(np: types.ModuleType) -> dict[str, Any]:
    """Return every removed name that MXNet uses, with what NumPy recommends instead.

    MXNet keys a table by NumPy function, so a restored function must not be one that is in it
    already: ``product`` would overwrite the entry of ``prod``. Hence the empty partials.
    """
    return {
        "bool": np.bool_,  # NumPy 2 uses this name for it; the builtin works no better here
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
        "trapz": getattr(np, "trapezoid", None),  # a NumPy without trapezoid has trapz
        # MXNet only passes these on; NumPy removed them in 1.20.
        **dict.fromkeys(("mirr", "npv", "pmt", "ppmt", "pv", "rate"), _removed_financial),
    }


def _removed_financial(*args: Any, **kwargs: Any) -> None:
    raise NotImplementedError("NumPy no longer has financial functions: use numpy_financial")
