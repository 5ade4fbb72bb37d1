"""Repurposers as files: written whole or not at all, and nothing that is loaded can run code."""

import hashlib
import importlib
import io
import json
import platform
import warnings
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from sklearn.utils.validation import check_is_fitted

from xfer._io import atomic_write
from xfer.sources import open_source, source_from_state

__all__ = ["load"]

_FORMAT = 2
_SUFFIX = ".xfer"
_DIGEST_LENGTH = len(hashlib.sha256().hexdigest())
# The modules whose classes can be loaded without having been imported before.
_OWN_MODULES = ("xfer.repurposers", "xfer.training.repurposers")
# What skops may build a file's content with. Its loaders of bound methods, operators and partial
# functions are not here: before skops 0.12, and 0.11 is the newest beside NumPy 1.23, a file could
# use them to reach code that the list of trusted types does not name.
_LOADERS = {
    "CachedNode",
    "DictNode",
    "JsonNode",
    "ListNode",
    "NdArrayNode",
    "ObjectNode",
    "RandomStateNode",
    "SetNode",
    "SliceNode",
    "TupleNode",
    "TypeNode",
}
# Beside the types that skops trusts by itself: scikit-learn's estimators, arrays, plain Python. Of
# what those are made of, only classes written in Python are here: compiled ones, such as trees,
# follow the indices in a file without a look at where they lead.
_TRUSTED = [
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.DotProduct",
    "sklearn.gaussian_process.kernels.Matern",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.RationalQuadratic",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
    "sklearn.multiclass._ConstantPredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
    "xfer.meta.bayesian_network.BayesianNetwork",
    "xfer.meta.gaussian_process.DirichletGaussianProcess",
    "xfer.meta.logistic_regression.CalibratedLogisticRegression",
    "xfer.meta.calibrated.ScaledScores",
    "xfer.meta.support_vector_machine.CalibratedSvm",
]
_classes: dict[str, type] = {}


def register(kind: type) -> None:
    """Enter a class whose objects can be saved and loaded."""
    _classes[f"{kind.__module__}.{kind.__qualname__}"] = kind


def save(
    repurposer: Any,
    model_name: str | PathLike[str],
    model_directory: str | PathLike[str] = "",
    save_source_model: bool | None = None,
) -> Path:
    """Save a fitted repurposer; see :meth:`xfer.Repurposer.save_repurposer`."""
    check_is_fitted(repurposer)
    path = _path(model_name, model_directory)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to save {path.name} in")
    if repurposer.trains_network and save_source_model is False:
        raise ValueError(
            f"what a {type(repurposer).__name__} has learned is its network, which always goes "
            "into the file: leave out save_source_model=False"
        )
    source = repurposer.features_.source_
    layers = [layer.name for layer in repurposer.features_.layers_]
    state, arrays = None, {}
    if save_source_model or save_source_model is None:
        if not hasattr(source, "to_state"):
            raise TypeError(
                f"a source of class {type(source).__name__} cannot go into the file: save with "
                "save_source_model=False, and give the network to xfer.load again"
            )
        state, arrays = source.to_state()
    inputs, input_arrays = _state_of_inputs(getattr(source, "inputs", None))
    manifest = {
        "format": _FORMAT,
        "class": f"{type(repurposer).__module__}.{type(repurposer).__qualname__}",
        "layers": layers,
        "fingerprint": source.fingerprint(layers) if hasattr(source, "fingerprint") else None,
        "versions": _versions(),
        "source": state,
        "padding_id": getattr(source, "padding_id", None),
        "cache_key": getattr(source, "cache_key", None),
        "inputs": inputs,
    }
    content = {
        "manifest": json.dumps(manifest),
        "source": arrays,
        "inputs": input_arrays,
        "parameters": {
            name: value
            for name, value in repurposer.get_params(deep=False).items()
            if name not in repurposer._not_saved
        },
        **repurposer._learned(),
    }
    written = _dump(content, type(repurposer.meta_model_).__name__)
    with atomic_write(path) as file:
        file.write(written)
        file.write(hashlib.sha256(written).hexdigest().encode())
    return path


def load(
    model_name: str | PathLike[str],
    model_directory: str | PathLike[str] = "",
    source_model: Any = None,
    *,
    inputs: Any = None,
    preprocess: Callable[[list], Any] | None = None,
    cache_key: str | None = None,
) -> Any:
    """Load a repurposer that :meth:`xfer.Repurposer.save_repurposer` wrote.

    Parameters
    ----------
    model_name : str or path-like
        Name of the file, with or without ``.xfer``.
    model_directory : str or path-like, default=""
        Where it is; by default in the current folder.
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes, optional
        The network, where it is not in the file or is to be used from memory. It must be the one
        that the repurposer was fitted on, up to the layers that give the features.
    inputs, preprocess : optional
        What made the network's inputs of raw examples, where the file cannot hold it (a function, a
        tokenizer) and ``source_model`` does not bring it; see :func:`xfer.open_source`.
    cache_key : str, optional
        The ``cache_key`` that ``source_model`` was opened with, where it needs one.

    Returns
    -------
    Repurposer or MetaModelRegressor
        Predicts as the saved one did.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, was changed, is of another version or holds something that is not
        allowed; if the network or its inputs are missing, or ``source_model`` is another one.
    """
    path = _path(model_name, model_directory)
    if not path.is_file():
        raise FileNotFoundError(f"there is no saved repurposer {path}")
    written = path.read_bytes()
    state, digest = written[:-_DIGEST_LENGTH], written[-_DIGEST_LENGTH:]
    if hashlib.sha256(state).hexdigest().encode() != digest:
        raise ValueError(
            f"{path} is damaged or was changed: it does not match the checksum it was saved with"
        )
    options = {"inputs": inputs, "preprocess": preprocess, "cache_key": cache_key}
    try:
        return _read(state, source_model, options)
    except Exception as error:
        # What is wrong with a file shows in many places; the caller needs its name and why.
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be loaded: {reason}") from error


def _path(model_name: str | PathLike[str], model_directory: str | PathLike[str]) -> Path:
    if not isinstance(model_name, (str, PathLike)) or not str(model_name):
        raise ValueError(f"model_name must be the name of a file, got {model_name!r}")
    name = str(model_name)
    return Path(model_directory) / (name if name.endswith(_SUFFIX) else name + _SUFFIX)


def _dump(content: dict[str, Any], model: str) -> bytes:
    try:
        state = skops.io.dumps(content)
    except Exception as error:
        raise TypeError(
            f"this {model} cannot be saved safely: skops cannot write what it holds: {error}"
        ) from error
    try:
        _audit(state)
    except ValueError as error:
        raise TypeError(f"this {model} cannot be saved safely: {error}") from error
    return state


def _read(state: bytes, source_model: Any, options: dict[str, Any]) -> Any:
    _audit(state)
    content = skops.io.loads(state, trusted=_TRUSTED)
    manifest = json.loads(content.pop("manifest"))
    if manifest["format"] != _FORMAT:
        raise ValueError(
            f"it is of format {manifest['format']!r}, written by {manifest.get('versions')}; "
            f"this version of xfer reads format {_FORMAT}"
        )
    kind = _class_of(manifest["class"])
    arrays, input_arrays = content.pop("source"), content.pop("inputs")
    given = None if source_model is None else open_source(source_model)
    source = given
    if source is None or kind.trains_network:
        if manifest["source"] is None:
            raise ValueError("it was saved without its network: give that as source_model")
        source = source_from_state(manifest["source"], arrays)
    source = _with_inputs(source, manifest, input_arrays, options)
    _check_same_network(source, manifest)
    repurposer = kind(source_model=source_model, **content.pop("parameters"))
    return repurposer._restore(source, manifest["layers"], content)


def _class_of(name: str) -> Any:
    module = name.rpartition(".")[0]
    if module in _OWN_MODULES:
        importlib.import_module(module)
    if name not in _classes:
        raise ValueError(f"import the module that defines {name} first")
    return _classes[name]


def _state_of_inputs(inputs: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Return inputs as what JSON can hold, and arrays; "given" is what no file can hold."""
    if inputs is None:
        return None, {}
    try:
        return inputs.to_state()
    except TypeError:
        return "given", {}


def _with_inputs(source: Any, manifest: Any, arrays: Any, options: dict[str, Any]) -> Any:
    """Open a network with what it was opened with when the repurposer was fitted."""
    saved, own = manifest["inputs"], getattr(source, "inputs", None)
    given = options["inputs"] is not None or options["preprocess"] is not None
    if saved is None and given:
        raise ValueError("it was fitted without inputs or preprocess: leave them out")
    if saved == "given" and own is None and not given:
        raise ValueError(
            "something that no safe file can hold (a function or a tokenizer) made its network's "
            "inputs: give it to xfer.load again, as preprocess=... or inputs=..."
        )
    if saved is not None and saved != "given":
        from xfer.inputs import from_state

        restored = from_state(saved, arrays)
        if not given and own is None:
            options = {**options, "inputs": restored}
        elif own is not None and own.identity() != restored.identity():
            raise ValueError(f"source_model makes its inputs otherwise: it was saved with {restored}")
    cache_key = options["cache_key"] or getattr(source, "cache_key", None)
    options = {**options, "cache_key": cache_key, "padding_id": manifest.get("padding_id")}
    return open_source(source, **options)


def _check_same_network(source: Any, manifest: Any) -> None:
    saved = manifest["fingerprint"]
    if saved is None:
        warnings.warn(
            "the network was of a kind that has no fingerprint, so it could not be checked that "
            f"source_model, of class {type(source).__name__}, is the same",
            stacklevel=5,
        )
        return
    if not hasattr(source, "fingerprint"):
        raise ValueError(
            f"source_model, of class {type(source).__name__}, has no fingerprint to be known by"
        )
    # As it comes back from a file, where a tuple has become a list.
    found = json.loads(json.dumps(source.fingerprint(manifest["layers"])))
    if found != saved:
        differing = _differing(saved, found)
        what = f": other {', '.join(differing)}" if differing else ""
        raise ValueError(f"source_model is not the network it was fitted on{what}")


def _differing(saved: Any, found: Any) -> list[str]:
    """Name what two fingerprints differ in; nothing where they are not dicts."""
    if not isinstance(saved, dict) or not isinstance(found, dict):
        return []
    names = [name for name in sorted({*saved, *found}) if saved.get(name) != found.get(name)]
    parameters = [one.get("parameters") for one in (saved, found)]
    if "parameters" in names and all(isinstance(some, dict) for some in parameters):
        return [f"parameters {', '.join(_differing(*parameters)[:3])}"]
    return names


def _audit(state: bytes) -> None:
    """Refuse a skops file that needs more than the fixed list of loaders and types."""
    with zipfile.ZipFile(io.BytesIO(state)) as archive:
        schema = json.loads(archive.read("schema.json"))
    # First of all, for the loader of losses imports what it names even while it is looked at.
    _refuse({f"{name} ({loader})" for loader, name in _loaders(schema) if loader not in _LOADERS})
    _refuse(set(skops.io.get_untrusted_types(data=state)) - set(_TRUSTED))


def _refuse(names: set[str]) -> None:
    if names:
        raise ValueError(f"it holds {', '.join(sorted(names))}, which xfer.load does not allow")


def _loaders(node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        if "__loader__" in node:
            yield str(node["__loader__"]), f"{node.get('__module__')}.{node.get('__class__')}"
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _loaders(child)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("xfer-learn", "numpy", "scikit-learn", "skops", "onnx", "onnxruntime", "mxnet"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
