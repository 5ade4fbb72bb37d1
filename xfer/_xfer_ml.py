"""Saved repurposers of xfer-ml, the earlier library: JSON beside MXNet checkpoints.

Nothing in a file is evaluated. The shapes of an SVM are checked, because scikit-learn's compiled
code relies on them.
"""

import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from xfer._compiled import check_compiled
from xfer.checkpoint.edit import drop_top
from xfer.checkpoint.network import Network
from xfer.meta.calibrated import ScaledScores
from xfer.repurposers import LrRepurposer, SvmRepurposer
from xfer.sources import load_checkpoint, open_source
from xfer.sources.checkpoint import CheckpointSource
from xfer.training.repurposers import (
    NeuralNetworkFineTuneRepurposer,
    NeuralNetworkRandomFreezeRepurposer,
)


def read(path: Path, source_model: Any, given: Mapping[str, Any]) -> Any:
    """Read a fitted repurposer; parameters whose scale differs in xfer-ml get their defaults.

    ``given`` are options of :func:`xfer.open_source`.
    """
    saved = json.loads(path.read_text(encoding="utf-8"))
    if "repurposer_class" not in saved:
        raise ValueError(f"it is not a file of xfer-ml, and there is no {path.stem}.xfer")
    name, options = saved["repurposer_class"], saved["parameters"]
    prefix = str(path).removesuffix(".json")
    if name in _TRAINED:
        kind = _TRAINED[name]
        network = Network.from_files(prefix, 0)
        network = network.with_graph(drop_top(network.graph, 1, network.input_names))
        source = open_source(CheckpointSource(network), **given)
        names = signature(kind).parameters.keys() & options.keys() - {*_DEVICES}
        repurposer = kind(source_model, **{one: options[one] for one in names})
        count, head = options["target_class_count"], network.head_names
        widths = [one.shape[-1] for one in source.layers if one.name in head and one.shape]
        if widths and widths != [count]:
            raise ValueError(f"its {count} classes are not the {widths[0]} outputs of its network")
        model: Any = ScaledScores(np.arange(count))
        return repurposer._restore(source, head, {"meta_model": model, "history": {}})
    if name not in _READ:
        known = ", ".join([*_READ, *_TRAINED])
        raise ValueError(f"a {name} of xfer-ml cannot be read, only {known}: fit it again")
    kind, read_model = _READ[name]
    if source_model is None and not Path(f"{prefix}_source-symbol.json").is_file():
        raise ValueError("xfer-ml saved it without its network: give the network as source_model")
    source = load_checkpoint(f"{prefix}_source") if source_model is None else source_model
    model = read_model(saved["target_model"]["model"])
    layers = options["feature_layer_names"]
    repurposer = kind(source_model, layers)
    return repurposer._restore(open_source(source, **given), layers, {"meta_model": model})


def _read_logistic_regression(saved: Mapping[str, Any]) -> LogisticRegression:
    model, values = LogisticRegression(), saved["attributes"]
    model.classes_ = _array(values["classes_"])
    # With two classes, scikit-learn 0.19 compares the scores -s and s, today's compares 0 and s.
    factor = 2 if len(model.classes_) == 2 else 1
    model.coef_ = factor * _array(values["coef_"])
    model.intercept_ = factor * _array(values["intercept_"])
    model.n_features_in_ = model.coef_.shape[1]
    return model


def _read_svm(saved: Mapping[str, Any]) -> SVC:
    model = SVC(**{name: saved["parameters"][name] for name in ("C", "kernel", "degree", "coef0")})
    estimates_probability = saved["parameters"]["probability"] is True
    model.set_params(**({"probability": True} if estimates_probability else {}))
    values = {name.strip("_"): value for name, value in saved["attributes"].items()}
    k = len(values["classes"][1])
    model.classes_ = _array(values["classes"], k)
    model.support_vectors_ = _array(values["support_vectors"])
    n, pairs = len(model.support_vectors_), k * (k - 1) // 2
    model.support_ = _array(values["support"], n, np.int32)
    model._n_support = _array(values["n_support"], k, np.int32)
    # With two classes, scikit-learn changes the sign of the public attributes.
    sign = -1 if k == 2 else 1
    model._dual_coef_ = _array(saved["attributes"]["_dual_coef_"], (k - 1, n))
    model._intercept_ = _array(saved["attributes"]["_intercept_"], pairs)
    model.dual_coef_, model.intercept_ = sign * model._dual_coef_, sign * model._intercept_
    estimates = pairs if estimates_probability else 0
    model._probA = _array(values["probA"], estimates)
    model._probB = _array(values["probB"], estimates)
    if model.kernel == "precomputed":
        raise ValueError("an SVM of xfer-ml cannot have the kernel 'precomputed'")
    model._gamma, model._sparse, model.fit_status_ = float(values["gamma"]), False, 0
    model.class_weight_, model.n_features_in_ = np.ones(k), model.support_vectors_.shape[1]
    model.shape_fit_ = tuple(values["shape_fit"][1])
    check_compiled(model)
    return model


def _array(saved: Any, shape: Any = None, kind: Any = None) -> np.ndarray:
    """Make an array from its type and nested lists, and check its shape."""
    array = np.array(saved[1], kind)
    if shape is not None and array.shape != np.empty(shape).shape:
        raise ValueError(f"an array of the SVM must have shape {shape}, got {array.shape}")
    return array


_DEVICES = ("context_function", "num_devices")
_READ: dict[str, Any] = {
    "LrRepurposer": (LrRepurposer, _read_logistic_regression),
    "SvmRepurposer": (SvmRepurposer, _read_svm),
}
_TRAINED: dict[str, Any] = {
    one.__name__: one
    for one in (NeuralNetworkFineTuneRepurposer, NeuralNetworkRandomFreezeRepurposer)
}
