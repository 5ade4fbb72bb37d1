"""Repurposers as files: written whole or not at all, and nothing that is loaded can run code."""

import hashlib
import io
import json
import platform
import warnings
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import skops.io
from sklearn.utils.validation import check_is_fitted

import xfer.fine_tuning
import xfer.regressor
import xfer.repurposers  # noqa: F401  so that their classes are known by name
from xfer._files import written_whole
from xfer.feature_model import FeatureModel
from xfer.sources import open_saved_source, open_source

__all__ = ["load", "save"]

_FORMAT = 1
_SUFFIX = ".xfer"
_DIGEST_LENGTH = len(hashlib.sha256().hexdigest())
# What skops may build a meta-model with. Its loaders of bound methods, operators and partial
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
# Beside the types that skops trusts of itself: scikit-learn's estimators, arrays, plain Python. Of
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
    "xfer.meta.scores.ScaledScores",
    "xfer.meta.support_vector_machine.CalibratedSvm",
]


def save(repurposer, model_name, model_directory="", save_source_model=None):
    """Save a fitted repurposer; what :meth:`xfer.Repurposer.save_repurposer` calls.

    Parameters
    ----------
    repurposer : Repurposer or MetaModelRegressor
    model_name, model_directory, save_source_model
        See :meth:`xfer.Repurposer.save_repurposer`.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If there is nothing to save yet.
    TypeError
        If the meta-model or the network is of a kind that a safe file cannot hold.
    FileNotFoundError
        If there is no such folder.
    """
    check_is_fitted(repurposer)
    path = _path(model_name, model_directory)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to save {path.name} in")
    source = repurposer.features_.source_
    layers = [layer.name for layer in repurposer.features_.layers_]
    description, arrays = None, {}
    if repurposer.trains_network and save_source_model is False:
        raise ValueError(
            f"what a {type(repurposer).__name__} has learned is its network, which always goes "
            "into the file: leave out save_source_model=False"
        )
    if save_source_model or save_source_model is None:
        if not hasattr(source, "parts"):
            raise TypeError(
                f"a source of class {type(source).__name__} cannot go into the file: save with "
                "save_source_model=False, and give the network to xfer.load again"
            )
        description, arrays = source.parts()
    manifest = {
        "format": _FORMAT,
        "class": _full_name(type(repurposer)),
        "layers": layers,
        "fingerprint": source.fingerprint(layers) if hasattr(source, "fingerprint") else None,
        "versions": _versions(),
        "source": description,
        "padding_id": getattr(source, "padding_id", None),
        "preprocess": getattr(source, "preprocess", None) is not None,
    }
    state = _dump(repurposer)
    with written_whole(path) as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("manifest.json", json.dumps(manifest))
            archive.writestr("repurposer.skops", state)
            for name, array in arrays.items():
                with archive.open(f"source/{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            archive.comment = b"0" * _DIGEST_LENGTH
        digest = _digest(file)
        file.seek(-_DIGEST_LENGTH, io.SEEK_END)
        file.write(digest)
    return path


def load(model_name, model_directory="", source_model=None, preprocess=None):
    """Load a repurposer that :meth:`xfer.Repurposer.save_repurposer` wrote.

    Parameters
    ----------
    model_name : str
        Name of the file, with or without ``.xfer``.
    model_directory : str or path-like, default=""
        Where it is; by default in the current folder.
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes, optional
        The network, where it is not in the file or is to be used from memory. It must be the one
        that the repurposer was fitted on, up to the layers that give the features.
    preprocess : callable, optional
        What turns examples into the network's inputs, which no safe file can hold: needed where the
        network that the repurposer was fitted on had one, as in
        ``xfer.open_source(network, preprocess=...)``, and ``source_model`` does not bring it.

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
        allowed; if no network or ``preprocess`` is to be had, or ``source_model`` is another one.
    """
    path = _path(model_name, model_directory)
    if not path.is_file():
        raise FileNotFoundError(f"there is no saved repurposer {path}")
    with path.open("rb") as file:
        _check_digest(path, file)
        try:
            with zipfile.ZipFile(file) as archive:
                manifest = _read_manifest(archive)
                return _read_repurposer(archive, manifest, source_model, preprocess)
        except Exception as error:
            # What is wrong with a file shows in many places; the caller needs its name and why.
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} cannot be loaded: {reason}") from error


def _path(model_name, model_directory):
    if not isinstance(model_name, (str, Path)) or not str(model_name):
        raise ValueError(f"model_name must be the name of a file, got {model_name!r}")
    name = str(model_name)
    return Path(model_directory) / (name if name.endswith(_SUFFIX) else name + _SUFFIX)


def _dump(repurposer):
    # The network goes beside, and a function cannot go into a safe file.
    parameters = {
        name: value
        for name, value in repurposer.get_params(deep=False).items()
        if name not in repurposer._not_saved
    }
    model = type(repurposer.meta_model_).__name__
    try:
        state = skops.io.dumps({"parameters": parameters, **repurposer._learned()})
    except Exception as error:
        raise TypeError(
            f"this {model} cannot be saved safely: skops cannot write what it holds: {error}"
        ) from error
    try:
        _audit(state)
    except ValueError as error:
        raise TypeError(f"this {model} cannot be saved safely: {error}") from error
    return state


def _read_manifest(archive):
    manifest = json.loads(archive.read("manifest.json"))
    if manifest["format"] != _FORMAT:
        raise ValueError(
            f"it is of format {manifest['format']!r}, written by {manifest.get('versions')}; "
            f"this version of xfer reads format {_FORMAT}"
        )
    return manifest


def _read_source(archive, manifest):
    if manifest["source"] is None:
        raise ValueError("it was saved without its network: give that as source_model")
    arrays = {}
    for name in archive.namelist():
        if name.startswith("source/"):
            with archive.open(name) as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
            arrays[name.removeprefix("source/").removesuffix(".npy")] = array
    return open_saved_source(manifest["source"], arrays)


def _check_same_network(source, manifest):
    saved = manifest["fingerprint"]
    if saved is None:
        warnings.warn(
            "the network was of a kind that has no fingerprint, so it could not be checked that "
            f"source_model, of class {type(source).__name__}, is the same",
            stacklevel=4,
        )
        return
    if not hasattr(source, "fingerprint"):
        raise ValueError(
            f"source_model, of class {type(source).__name__}, has no fingerprint to be known by"
        )
    # As it comes back from a file, where a tuple has become a list.
    found = json.loads(json.dumps(source.fingerprint(manifest["layers"])))
    if found == saved:
        return
    differing = _differing(saved, found)
    if differing == ["code"]:
        warnings.warn(
            "source_model has the parameters and settings of the network it was fitted on, but the "
            "text of its code differs: see that it still computes the same",
            stacklevel=4,
        )
        return
    what = f": other {', '.join(differing)}" if differing else ""
    raise ValueError(f"source_model is not the network it was fitted on{what}")


def _differing(saved, found):
    """Name what two fingerprints differ in; nothing where they are no dicts."""
    if not isinstance(saved, dict) or not isinstance(found, dict):
        return []
    names = [name for name in sorted({*saved, *found}) if saved.get(name) != found.get(name)]
    parameters = [one.get("parameters") for one in (saved, found)]
    if "parameters" in names and all(isinstance(some, dict) for some in parameters):
        return [f"parameters {', '.join(_differing(*parameters)[:3])}"]
    return names


def _as_it_was_opened(source, manifest, preprocess):
    """Give a network what it was opened with, which is not part of it."""
    wanted = manifest.get("preprocess", False)
    if preprocess is not None and not wanted:
        raise ValueError("it was fitted without a preprocess: leave preprocess out")
    if wanted and preprocess is None and getattr(source, "preprocess", None) is None:
        raise ValueError(
            "its examples went through a preprocess, which is code that no safe file can hold: "
            "give it to xfer.load again, as preprocess=..."
        )
    return open_source(source, preprocess=preprocess, padding_id=manifest.get("padding_id"))


def _read_repurposer(archive, manifest, source_model, preprocess):
    kinds = {_full_name(kind): kind for kind in _subclasses(FeatureModel)}
    if manifest["class"] not in kinds:
        raise ValueError(f"import the module that defines {manifest['class']} first")
    kind = kinds[manifest["class"]]
    given = None if source_model is None else open_source(source_model)
    if given is None or kind.trains_network:
        source = _read_source(archive, manifest)
    else:
        source = given
    _check_same_network(source, manifest)
    source = _as_it_was_opened(source, manifest, preprocess)
    state = archive.read("repurposer.skops")
    _audit(state)
    learned = skops.io.loads(state, trusted=_TRUSTED)
    repurposer = kind(source_model=source_model, **learned.pop("parameters"))
    return repurposer._restore(source, manifest["layers"], learned)


def _audit(state):
    """Refuse a skops file that needs more than the fixed list of loaders and types."""
    with zipfile.ZipFile(io.BytesIO(state)) as archive:
        schema = json.loads(archive.read("schema.json"))
    # First of all, for the loader of losses imports what it names even while it is looked at.
    _refuse({f"{name} ({loader})" for loader, name in _loaders(schema) if loader not in _LOADERS})
    _refuse(set(skops.io.get_untrusted_types(data=state)) - set(_TRUSTED))


def _refuse(names):
    if names:
        raise ValueError(f"it holds {', '.join(sorted(names))}, which xfer.load does not allow")


def _loaders(node):
    if isinstance(node, dict):
        if "__loader__" in node:
            yield str(node["__loader__"]), f"{node.get('__module__')}.{node.get('__class__')}"
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _loaders(child)


def _check_digest(path, file):
    expected = _digest(file)
    file.seek(-min(_DIGEST_LENGTH, path.stat().st_size), io.SEEK_END)
    if file.read() != expected:
        raise ValueError(
            f"{path} is damaged or was changed: it does not match the checksum it was saved with"
        )


def _digest(file):
    """Return the checksum of everything but the checksum that stands at the end."""
    left = file.seek(0, io.SEEK_END) - _DIGEST_LENGTH
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0:
        block = file.read(min(left, 1 << 20))
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()


def _full_name(kind):
    return f"{kind.__module__}.{kind.__qualname__}"


def _subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _versions():
    found = {"python": platform.python_version()}
    for name in ("xfer", "numpy", "scikit-learn", "skops", "onnx", "onnxruntime", "mxnet"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
