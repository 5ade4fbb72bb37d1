"""Repurposers as files: written whole or not at all, and nothing that is loaded can run code.

A file is an archive of skops, followed by its checksum. skops and the classes that it trusts take
seconds to import, so it is imported only where a file is written or read.
"""

import hashlib
import importlib
import io
import json
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from sklearn.utils.validation import check_is_fitted

import xfer
from xfer._io import atomic_write
from xfer.features import SharesNetwork
from xfer.inputs import as_inputs, from_state
from xfer.sources import open_source, source_from_state

__all__ = ["load"]

_FORMAT = 3
_SUFFIX = ".xfer"
_CHECKSUM_LENGTH = 64
# Stands in a file for inputs that have to be given again.
_GIVEN = "given"
# The modules whose classes can be loaded without having been imported before.
_OWN_MODULES = ("xfer.auto", "xfer.repurposers", "xfer.training.repurposers")
# What skops may build a file's content with. Its loaders of bound methods, operators and partial
# functions are not here: before skops 0.12, and 0.11 is the newest beside NumPy 1.23, a file could
# use them to reach code that the list of trusted types does not name.
_LOADERS = re.compile("(Cached|Dict|Json|List|NdArray|Object|RandomState|Set|Slice|Tuple|Type)Node")
# Types allowed in addition to those that skops trusts itself: scikit-learn's estimators, arrays,
# plain Python. These are parts of such estimators. Only classes written in Python are listed:
# compiled ones, such as trees, follow indices from the file without checking them.
_KERNELS = "ConstantKernel DotProduct Matern Product RBF RationalQuadratic Sum WhiteKernel"
_TRUSTED = [
    *(f"sklearn.gaussian_process.kernels.{name}" for name in _KERNELS.split()),
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.multiclass._ConstantPredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
    "xfer.meta.bayesian_network.BayesianNetwork",
    "xfer.meta.gaussian_process.DirichletGaussianProcess",
    "xfer.meta.graph.GraphSpreading",
    "xfer.meta.heads.FeatureHeads",
    "xfer.meta.heads.GaussianHead",
    "xfer.meta.heads.RidgeHead",
    "xfer.meta.heads.WordsHead",
    "xfer.meta.logistic_regression.CalibratedLogisticRegression",
    "xfer.meta.mixture.JoinedSpace",
    "xfer.meta.mixture.MixtureClassifier",
    "xfer.meta.mixture.Score",
    "xfer.meta.novelty.Novelty",
    "xfer.meta.calibrated.ScaledScores",
    "xfer.meta.ridge.WhitenedRidge",
    "xfer.meta.support_vector_machine.CalibratedSvm",
    "xfer.meta.whitening.PartialWhitening",
    "xfer.meta.words.WordWeights",
]


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
            f"a {type(repurposer).__name__} has trained its network, so the network always goes "
            "into the file: leave out save_source_model=False"
        )
    source = repurposer.features_.source_
    layers = [layer.name for layer in repurposer.features_.layers_]
    network, arrays = None, {}
    if save_source_model is None or save_source_model:
        # Of a PyTorch network that was trained, the arrays; its code has to be given again.
        to_state = "to_weights" if repurposer.trains_network else "to_state"
        to_state = to_state if hasattr(source, to_state) else "to_state"
        if not hasattr(source, to_state):
            raise TypeError(
                f"a source of class {type(source).__name__} cannot go into the file: save with "
                "save_source_model=False, and give the network to xfer.load again"
            )
        network, arrays = getattr(source, to_state)()
    inputs, input_arrays = getattr(source, "inputs", None), dict[str, Any]()
    if inputs is not None:
        try:
            inputs, input_arrays = as_inputs(inputs).to_state()
        except TypeError:
            inputs = _GIVEN
    manifest = {
        "format": _FORMAT,
        "version": xfer.__version__,
        "class": f"{type(repurposer).__module__}.{type(repurposer).__qualname__}",
        "layers": layers,
        "fingerprint": source.fingerprint(layers) if hasattr(source, "fingerprint") else None,
        "network": network,
        "inputs": inputs,
        "padding_id": getattr(source, "padding_id", None),
        "cache_key": _cache_key(source),
    }
    given = repurposer.get_params(deep=False)
    content = {
        "manifest": json.dumps(manifest),
        "network": arrays,
        "inputs": input_arrays,
        "parameters": {name: given[name] for name in given if name not in repurposer._not_saved},
        "learned": repurposer._learned(),
    }
    archive = _dump(content, type(repurposer.meta_model_).__name__)
    with atomic_write(path) as file:
        file.write(archive)
        file.write(_checksum(archive))
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
    """Load what :meth:`xfer.Repurposer.save_repurposer` wrote; it predicts as the saved one did.

    Parameters
    ----------
    model_name, model_directory : str or path-like
        Name of the file, with or without ``.xfer``, and its folder; by default the current one.
        Some files of xfer-ml, the earlier library, can be read too: :doc:`/coming_from_xfer_ml`.
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes, optional
        The network, if it is not in the file or is already in memory. It must be the one that the
        repurposer was fitted on, up to the layers that give the features.
    inputs, preprocess, cache_key : optional
        See :func:`xfer.open_source`. Code that made inputs of raw examples is not in the file: give
        it again. ``cache_key`` must be that of the fit, if it had one.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file; if it is damaged, was changed, is of another format or holds
        what is not allowed; if the network or its inputs are missing, or are not those of the fit.
    """
    path = _path(model_name, model_directory)
    given = {"inputs": inputs, "preprocess": preprocess, "cache_key": cache_key}
    earlier = path.with_name(path.name.removesuffix(_SUFFIX).removesuffix(".json") + ".json")
    if not path.is_file() and not earlier.is_file():
        other = Path(model_directory, model_name)
        advice = f"; {other} does not end in .xfer" if other.is_file() else ""
        raise FileNotFoundError(f"there is no saved repurposer {path}{advice}")
    path = path if path.is_file() else earlier
    try:
        if path == earlier:
            return importlib.import_module("xfer._xfer_ml").read(path, source_model, given)
        return _read(_archive(path), source_model, given)
    except Exception as error:  # damage shows in many kinds of errors
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be loaded: {reason}") from error


def _path(model_name: str | PathLike[str], model_directory: str | PathLike[str]) -> Path:
    if not isinstance(model_name, (str, PathLike)) or not str(model_name):
        raise ValueError(f"model_name must be the name of a file, got {model_name!r}")
    if not isinstance(model_directory, (str, PathLike)):
        kind = type(model_directory).__name__
        raise TypeError(f"model_directory must be a folder, got {kind}: a network is source_model=")
    name = str(model_name)
    return Path(model_directory) / (name if name.endswith(_SUFFIX) else name + _SUFFIX)


def _archive(path: Path) -> bytes:
    content = path.read_bytes()
    archive, checksum = content[:-_CHECKSUM_LENGTH], content[-_CHECKSUM_LENGTH:]
    if _checksum(archive) != checksum:
        raise ValueError("it is damaged or was changed: its checksum does not match")
    return archive


def _checksum(archive: bytes) -> bytes:
    return hashlib.sha256(archive).hexdigest().encode()


def _dump(content: dict[str, Any], model: str) -> bytes:
    skops_io = _import_skops()
    reason = "skops cannot write what it holds: "
    try:
        archive = skops_io.dumps(content)
        reason = ""
        _audit(archive)
    except Exception as error:
        raise TypeError(f"this {model} cannot be saved safely: {reason}{error}") from error
    return archive


def _read(archive: bytes, source_model: Any, given: Mapping[str, Any]) -> Any:
    _audit(archive)
    content = _import_skops().loads(archive, trusted=_TRUSTED)
    importlib.import_module("xfer._compiled").check_compiled(content)
    manifest = json.loads(content["manifest"])
    if manifest["format"] != _FORMAT:
        raise ValueError(
            f"it has format {manifest['format']!r}, written by xfer {manifest.get('version')}; "
            f"xfer {xfer.__version__} reads format {_FORMAT}: fit it again"
        )
    kind = _find_class(manifest["class"])
    if forbidden := sorted(content["parameters"].keys() & set(kind._not_saved)):
        raise ValueError(f"a file may not set {', '.join(forbidden)}")
    # The network that a repurposer has trained is in its file, whatever else is given.
    source = None if source_model is None else open_source(source_model)
    if source is None or kind.trains_network:
        if manifest["network"] is None:
            advice = "load it with xfer.load(name, source_model=network)"
            raise ValueError(f"it was saved without its network: {advice}")
        source = source_from_state(manifest["network"], content["network"], source)
    source = _with_inputs(source, manifest, content["inputs"], given)
    _check_same_network(source, manifest)
    parameters = {n: v for n, v in content["parameters"].items() if n not in kind._removed}
    repurposer = kind(source_model=source_model, **parameters)
    return repurposer._restore(source, manifest["layers"], content["learned"])


def _find_class(name: str) -> Any:
    module = name.rpartition(".")[0]
    if module in _OWN_MODULES:
        importlib.import_module(module)
    kinds: list[Any] = [SharesNetwork]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    # Of classes of one name, which a notebook can define again and again, the last one counts.
    for kind in reversed(kinds):
        if hasattr(kind, "_restore") and name == f"{kind.__module__}.{kind.__qualname__}":
            return kind
    raise ValueError(f"import the module that defines {name} first")


def _cache_key(source: Any) -> str | None:
    """Return the name of a version of what makes a network's inputs, or of the network."""
    inputs = getattr(source, "inputs", None)
    return getattr(inputs, "cache_key", None) or getattr(source, "cache_key", None)


def _with_inputs(
    source: Any, manifest: Mapping[str, Any], arrays: Any, given: Mapping[str, Any]
) -> Any:
    """Give a network the inputs that it had when the repurposer was fitted."""
    source = open_source(source, padding_id=manifest["padding_id"], **given)
    inputs, saved = getattr(source, "inputs", None), manifest["inputs"]
    key, saved_key = _cache_key(source), manifest["cache_key"]
    if key and saved_key and key != saved_key:
        raise ValueError(f"its cache_key is {saved_key!r:.80}, but got {key!r:.80}")
    if saved is None and inputs is not None:
        raise ValueError("it was fitted without inputs or preprocess: leave them out")
    if saved == _GIVEN and inputs is None:
        raise ValueError(
            "its preprocess or inputs are code, which a safe file cannot hold: give them to "
            "xfer.load, as preprocess=... or inputs=..."
        )
    if saved is None or saved == _GIVEN:
        return source
    restored = from_state(saved, arrays)
    if inputs is None:
        return open_source(source, inputs=restored, padding_id=manifest["padding_id"])
    if type(inputs) is not type(restored) or inputs.identity() != restored.identity():
        raise ValueError(f"it was fitted with {restored}, but different inputs were given")
    return source


def _check_same_network(source: Any, manifest: Mapping[str, Any]) -> None:
    saved = manifest["fingerprint"]
    if saved is None:
        warnings.warn(
            f"a source of class {type(source).__name__} has no fingerprint, so it was not checked "
            "that source_model is the network that the repurposer was fitted on",
            stacklevel=4,
        )
        return
    if not hasattr(source, "fingerprint"):
        raise ValueError(
            f"source_model, of class {type(source).__name__}, has no fingerprint to compare with "
            "that of the network it was fitted on"
        )
    # In JSON a tuple becomes a list.
    found = json.loads(json.dumps(source.fingerprint(manifest["layers"])))
    if found != saved:
        differing = _differing(saved, found)
        if differing == ["packages"]:
            warnings.warn(
                "source_model has the parameters and code that the repurposer was fitted on, but "
                f"package versions differ: {found['packages']} now, {saved['packages']} then",
                stacklevel=5,
            )
            return
        told = ["its code or structure (graph)" if name == "graph" else name for name in differing]
        what = f": it differs in {', '.join(told)}" if told else ""
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


def _import_skops() -> Any:
    """Import skops.io without what takes most of the time: modules for PyTorch and Dask.

    skops looks for estimators in all of scikit-learn, and there are none in these modules.
    """
    names = [f"sklearn.externals.array_api_compat.{name}" for name in ("torch", "dask")]
    blocked = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]  # None forbids to import it
    try:
        return importlib.import_module("skops.io")
    finally:
        for name in blocked:
            del sys.modules[name]


def _audit(archive: bytes) -> None:
    """Refuse an archive that needs more than the fixed lists of loaders and types."""
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        size = sum(member.file_size for member in members.infolist())
        if size > len(archive):
            raise ValueError(
                f"its parts have {size:,} bytes and the archive {len(archive):,}: they are "
                "compressed or overlap, which no file of xfer's does"
            )
        schema = json.loads(members.read("schema.json"))
    # First of all: the loader of losses imports what it names even while it is looked at.
    found = _loaders(schema)
    wrong = {f"{name} ({loader})" for loader, name in found if not _LOADERS.fullmatch(loader)}
    wrong = wrong or set(_import_skops().get_untrusted_types(data=archive)) - set(_TRUSTED)
    if wrong:
        raise ValueError(f"it holds {', '.join(sorted(wrong))}, which xfer.load does not allow")


def _loaders(node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        if "__loader__" in node:
            yield str(node["__loader__"]), f"{node.get('__module__')}.{node.get('__class__')}"
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _loaders(child)
