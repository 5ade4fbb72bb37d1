"""A fitted repurposer as one ONNX file: network, pooling, meta-model, calibration and labels."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.compose import add_prefix
from onnx.version_converter import convert_version
from sklearn.base import is_regressor
from sklearn.utils.validation import check_is_fitted

from xfer import __version__
from xfer._io import atomic_write
from xfer.checkpoint.onnx_builder import BATCH, MOST_BYTES, OPSET, OnnxBuilder, Tensor
from xfer.export.expression import Value, concatenate
from xfer.export.heads import Words, novelty, predict, uncertainty
from xfer.export.pictures import NAME as PICTURES
from xfer.export.pictures import add_pictures, random_pictures
from xfer.inputs import ImageInputs
from xfer.sources.base import Layer
from xfer.sources.data import count, open_data, take_first
from xfer.sources.onnx_model import checksum
from xfer.sources.onnx_session import reason_of
from xfer.sources.table import with_axis

UNCERTAINTY = ("total", "aleatoric", "epistemic")
_IR_VERSION = 10
_EXAMPLES = 3  # that a file is compared on before it is written
_TOLERANCE = 1e-4
_RESIZED = 0.02  # where pictures are resized, whose pixels are rounded to bytes
_NETWORK, _SKLEARN = "network/", "sklearn/"

Arrays: TypeAlias = Mapping[str, np.ndarray]


def to_onnx(
    model: Any, path: str | os.PathLike[str], X: Any, outputs: Sequence[str] | None
) -> Path:
    """Write a repurposer or regressor; see ``Repurposer.to_onnx``."""
    check_is_fitted(model)
    if getattr(model, "classes_", np.empty(0)).ndim > 1:
        raise ValueError("a model of several labels per example cannot be exported")
    names = _checked_outputs(model, outputs)
    sample = _sample(model, X)
    found = _Export(model, sample.inputs, names).finish()
    types = {value.name: _dtype(value) for value in found.graph.input}
    content = found.SerializeToString()
    _check(model, content, types, sample, names)
    with atomic_write(Path(path)) as file:
        file.write(content)
    return Path(path)


def _checked_outputs(model: Any, outputs: Sequence[str] | None) -> list[str]:
    if is_regressor(model):
        if outputs is not None:
            raise ValueError("outputs are for classifiers: a regressor has one, 'variable'")
        return ["variable"]
    has = {
        "label": True,
        "probabilities": hasattr(model, "predict_proba"),
        **dict.fromkeys(UNCERTAINTY, hasattr(model, "predict_uncertainty")),
        "novelty": hasattr(model, "novelty"),
    }
    allowed = [name for name in has if has[name]]
    if outputs is None:
        return allowed[:2] if has["probabilities"] else ["label"]
    given = [outputs] if isinstance(outputs, str) else list(dict.fromkeys(outputs))
    if not given or not set(given) <= set(allowed):
        kind = type(model).__name__
        raise ValueError(f"outputs of this {kind} are {', '.join(allowed)}; got {outputs!r}")
    return given


class _Sample(NamedTuple):
    """Examples that a file is traced on and compared with."""

    inputs: Arrays  # as the network takes them
    trials: list[tuple[Any, Arrays, float]]  # as the model takes them, as the file does; tolerance


def _sample(model: Any, X: Any) -> _Sample:
    source, layers = model.features_.source_, model.features_.layers_
    if not hasattr(source, "to_onnx"):
        raise TypeError(f"a source of class {type(source).__name__} cannot be exported to ONNX")
    needed = source._inputs_of(layers)
    if isinstance(source.inputs, ImageInputs):
        trials: list[Any] = []
        for share, tolerance in (1.0, _TOLERANCE), (0.7, _RESIZED), (1.9, _RESIZED):
            pictures = random_pictures(source.inputs, _EXAMPLES, share)
            trials.append((list(pictures), {PICTURES: pictures}, tolerance))
        return _Sample(source.prepare(trials[0][0], needed), trials)
    if X is None:
        saved = (model.features_.fit_data_ or {}).get("inputs", {})
        if saved:
            source._seen_inputs = {n: (np.dtype(kind), *rest) for n, (kind, *rest) in saved.items()}
        found = source.sample_inputs(_EXAMPLES)
    elif not hasattr(X, "__getitem__"):
        raise TypeError(f"X must be an array, a dict of arrays or a list, got {type(X).__name__}")
    else:
        options: Any = {"batch_size": _EXAMPLES, "progress": False}
        data = open_data(take_first(X, _EXAMPLES))
        batches = data.batches(source.input_names, needed, source._is_example, **options)
        found = source.prepare(next(iter(batches)).examples, needed)
    inputs, axes, trials = dict(found), getattr(source, "batch_axes", {}), []
    for rows in (slice(None), *(slice(i, i + 1) for i in range(_EXAMPLES))):
        part = {name: array[rows] for name, array in inputs.items()}
        if count(part):
            feeds = {name: np.moveaxis(one, 0, axes.get(name, 0)) for name, one in part.items()}
            trials.append((part, feeds, _TOLERANCE))
    return _Sample(inputs, trials)


class _Export:
    """The graph that is written, while it is put together."""

    def __init__(self, model: Any, inputs: Arrays, outputs: Sequence[str]) -> None:
        self.model, self.outputs, self.sample = model, outputs, inputs
        features = model.features_
        self.source, self.layers = features.source_, features.layers_
        found = self.source.to_onnx([layer.name for layer in self.layers], inputs)
        self.network, self.builder = _with_opset(found.model), OnnxBuilder()
        names = [*found.names]
        if not {*outputs}.isdisjoint(_inner_names(self.network.graph)):
            self.network = add_prefix(self.network, _NETWORK, rename_inputs=False)
            names = [_NETWORK + name for name in names]
        graph = self.network.graph
        self.builder.names.update(_inner_names(graph), (one.name for one in graph.input))
        self.inputs = {value.name: self._input(value) for value in graph.input}
        of_layers = zip(self.layers, names, found.arrays, found.places, features.poolings_)
        self.features = {layer.name: self._features(layer, *rest) for layer, *rest in of_layers}

    def finish(self) -> onnx.ModelProto:
        """Add the meta-model, and return the whole."""
        builder, network, values = self.builder, self.network, self._predictions()
        for name in self.outputs:
            value = values[name]
            is_double = value.dtype == np.float64 and name != "label"
            builder.add_output(name, (value.astype(np.float32) if is_double else value).tensor)
            widths = {"probabilities": len(getattr(self.model, "classes_", ())), "variable": None}
            dims = (BATCH, widths[name]) if name in widths else (BATCH,)
            builder.outputs[-1] = replace(builder.outputs[-1], dims=dims)
            if builder.outputs[-1].name != name:
                raise ValueError(
                    f"the network has an input named {name!r}, as an output of the file has: leave "
                    "that out of outputs, or rename the input"
                )
        takes_pictures = isinstance(self.source.inputs, ImageInputs)
        before = self._add_pictures() if takes_pictures else []
        head, arrays = builder.build()
        del network.graph.output[:]
        nodes = [*before, *network.graph.node, *head.graph.node]
        del network.graph.node[:]
        network.graph.node.extend(nodes)
        network.graph.output.extend(head.graph.output)
        self._add_constants(arrays)
        network.producer_name = "xfer"
        onnx.helper.set_model_props(network, {"xfer": json.dumps(self._notes())})
        if network.ByteSize() > MOST_BYTES:
            raise ValueError(f"an ONNX file holds less than 2 GB; this is {network.ByteSize():,}")
        return network

    def _add_pictures(self) -> list[onnx.NodeProto]:
        """Replace the network's input by pictures; return the operators between the two."""
        graph, builder = self.network.graph, OnnxBuilder()
        builder.names = self.builder.names
        (value,) = graph.input
        pixels = add_pictures(builder, self.source.inputs).astype(self.inputs[value.name].dtype)
        builder.nodes.append(onnx.helper.make_node("Identity", [pixels.tensor.name], [value.name]))
        builder.outputs = [replace(pixels.tensor, name=value.name)]
        found, arrays = builder.build()
        self._add_constants(arrays)
        value.CopyFrom(found.graph.input[0])
        return list(found.graph.node)

    def _add_constants(self, arrays: Arrays) -> None:
        self.network.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in arrays.items()
        )

    def _predictions(self) -> dict[str, Value]:
        model, given = self.model.meta_model_, self._given()
        found = predict(model, given)
        if found is None:
            return self._of_scikit_learn(model, given)
        if is_regressor(model):
            return {"variable": found.scores}
        values = {"label": self._labels(found.scores), "probabilities": found.probabilities}
        if not {*UNCERTAINTY}.isdisjoint(self.outputs):
            values.update(uncertainty(found, model.prior_ratio_))
        if "novelty" in self.outputs:
            values["novelty"] = novelty(model, given, found.probabilities)
        return values

    def _given(self) -> Any:
        """Return what the meta-model takes."""
        if not hasattr(self.model, "words_"):
            return concatenate([*self.features.values()])
        blocks: dict[str, Any] = dict(self.features)
        if (words := self.model.words_) is not None:
            if words.of_ == "texts":
                raise ValueError(
                    "this fit also counts the words of texts, which an ONNX network does not get: "
                    "to export, fit another repurposer, such as LrRepurposer, or give ids of words"
                )
            (name,) = (name for name in self.source._id_inputs() if name in self.inputs)
            blocks["words"] = Words(words, self.inputs[name])
        return blocks

    def _labels(self, scores: Value) -> Value:
        classes = np.asarray(self.model.classes_)
        if classes.dtype.kind not in "iubf":
            classes = classes.astype(object)
            if not all(isinstance(label, str) for label in classes):
                raise ValueError(f"labels must be strings or numbers, got {classes[0]!r}")
        if classes.dtype.kind == "u" and int(classes.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"labels must fit 64 bits with a sign, got {classes.max()}")
        classes = classes.astype(np.int64) if classes.dtype.kind in "iu" else classes
        index = scores.apply("ArgMax", axis=1, keepdims=0)
        return scores.constant(classes, classes.dtype).take(index, axis=0)

    def _of_scikit_learn(self, model: Any, X: Value) -> dict[str, Value]:
        """Convert any other meta-model by skl2onnx."""
        try:
            from skl2onnx import convert_sklearn
            from skl2onnx.common.data_types import FloatTensorType
        except ImportError as error:
            raise ImportError(
                f"exporting a {type(model).__name__} needs skl2onnx: pip install skl2onnx ({error})"
            ) from error
        is_classifier = not is_regressor(self.model)
        # Only what has probabilities knows this option, which keeps them an array.
        options = {"zipmap": False} if is_classifier and hasattr(model, "predict_proba") else None
        width = [None, model.n_features_in_]
        try:
            found = convert_sklearn(
                model,
                initial_types=[("features", FloatTensorType(width))],
                options=options,
                target_opset={"": OPSET, "ai.onnx.ml": 3},
            )
        except Exception as error:  # of many kinds
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"skl2onnx cannot convert {type(model).__name__}: {reason}") from error
        found = add_prefix(found, _SKLEARN)
        X = X.astype(np.float32)
        self.builder.nodes.append(
            onnx.helper.make_node("Identity", [X.tensor.name], [f"{_SKLEARN}features"])
        )
        self.network.graph.initializer.extend(found.graph.initializer)
        self.builder.nodes.extend(found.graph.node)
        known = {entry.domain for entry in self.network.opset_import}
        self.network.opset_import.extend(e for e in found.opset_import if e.domain not in known)
        values = [
            Value(self.builder, Tensor(one.name, _dtype(one), None)) for one in found.graph.output
        ]
        if is_classifier:
            values[0] = values[0].reshape(-1)
        return dict(zip(("label", "probabilities") if is_classifier else ("variable",), values))

    def _input(self, value: onnx.ValueInfoProto) -> Value:
        """Return an input of the network, with the examples on the first axis."""
        found = Value(self.builder, Tensor(value.name, _dtype(value), None))
        axis = getattr(self.source, "batch_axes", {}).get(value.name, 0)
        return _to_front(found, axis, self.sample[value.name].ndim) if axis else found

    def _features(
        self, layer: Layer, name: str, output: np.ndarray, place: tuple[int, int], pooling: str
    ) -> Value:
        """Return a layer's pooled features as a matrix of float64."""
        (axis, count), ndim = place, output.ndim - (place[1] > 1)
        value = Value(self.builder, Tensor(name, output.dtype, (None,) * ndim))
        value = _to_front(value, axis, ndim) if axis else value
        value = value.reshape(-1, *output.shape[1:]) if count > 1 else value
        if output.ndim > 2 and pooling != "flatten":
            pooling = with_axis(pooling, layer.name, output.shape, self.source._channels)
            value = self._pooled(value, output.ndim, pooling)
        # The matrix of features has 32 bits, and meta-models compute in 64.
        return value.apply("Flatten", axis=1).astype(np.float32).astype(np.float64)

    def _pooled(self, value: Value, ndim: int, pooling: str) -> Value:
        mask = self._mask(pooling) if pooling in ("first_token", "masked_mean") else None
        if pooling == "first_token":
            first = value.constant(0, np.int64)
            if mask is None:
                return value.take(first, axis=1)
            first = mask.apply("ArgMax", axis=1, keepdims=1)
            return value.apply("GatherND", first, batch_dims=1)
        if pooling == "masked_mean":
            if mask is None:
                return value.mean(1)
            weights = mask.astype(value.dtype)
            total = weights.sum(1, keepdims=True).at_least(1.0)
            return (value * weights.add_axis(2)).sum(1) / total
        axes = range(1, ndim - 1) if pooling.startswith("channels_last_") else range(2, ndim)
        kinds = pooling.rpartition("_")[2].split("+")
        return concatenate([getattr(value, kind)(*axes) for kind in kinds])

    def _mask(self, pooling: str) -> Value | None:
        """Return 1 for tokens and 0 for padding, as int32; see ``SourceModel._mask``."""
        if self.source._mask(self.sample, [pooling]) is None:
            return None
        for name, value in self.inputs.items():
            if name == "attention_mask" or name.endswith("key_padding_mask"):
                padding = value.astype(np.int32).apply("Equal", 0)
                kept = padding if name.endswith("key_padding_mask") else padding.apply("Not")
                return kept.astype(np.int32)
        matrices = [name for name, array in self.sample.items() if array.ndim == 2]
        (ids,) = [n for n in matrices if n in self.source._id_inputs()] or matrices
        return self.inputs[ids].apply("Equal", self.source.padding_id).apply("Not").astype(np.int32)

    def _notes(self) -> dict[str, Any]:
        """Return what the file says of itself."""
        names = [layer.name for layer in self.layers]
        classes = getattr(self.model, "classes_", None)
        notes = {
            "xfer": __version__,
            "model": type(self.model).__name__,
            "layers": names,
            "pooling": self.model.features_.poolings_,
            "classes": None if classes is None else np.asarray(classes).tolist(),
        }
        with suppress(ValueError):  # some PyTorch modules cannot be told from others
            whole = json.dumps(self.source.fingerprint(names), sort_keys=True, default=str)
            notes["fingerprint"] = checksum(whole.encode())
        return notes


def _dtype(value: onnx.ValueInfoProto) -> np.dtype:
    # Some converters of skl2onnx leave the type of integer labels out.
    kind = value.type.tensor_type.elem_type or onnx.TensorProto.INT64
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))


def _inner_names(graph: onnx.GraphProto) -> set[str]:
    names = {name for node in graph.node for name in (*node.output, node.name)}
    return names.union(tensor.name for tensor in graph.initializer)


def _to_front(value: Value, axis: int, ndim: int) -> Value:
    return value.apply("Transpose", perm=[axis, *(i for i in range(ndim) if i != axis)])


def _with_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in the operators' version that meta-models are written in, or a later one."""
    version = max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=0)
    if version < OPSET:
        try:
            model = convert_version(model, OPSET)
        except Exception as error:
            raise ValueError(
                f"the network is written in version {version} of ONNX's operators, and cannot be "
                f"converted to version {OPSET}: {error}"
            ) from error
    model.ir_version = max(model.ir_version, _IR_VERSION)
    return model


def _check(
    model: Any,
    content: bytes,
    types: Mapping[str, np.dtype],
    sample: _Sample,
    outputs: Sequence[str],
) -> None:
    """Compare what a file gives with what the model predicts."""
    onnx.checker.check_model(content)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no one class of errors
        raise ValueError(f"ONNX Runtime cannot run the file: {reason_of(error)}") from error
    for given, feeds, tolerance in sample.trials:
        feeds = {n: np.ascontiguousarray(feeds[n], types[n]) for n in types}
        found = session.run([*outputs], feeds)
        _compare(model, given, dict(zip(outputs, found)), tolerance)


def _compare(model: Any, inputs: Any, found: dict[str, Any], tolerance: float) -> None:
    expected: dict[str, Any] = {}
    if "probabilities" in found:
        expected["probabilities"] = model.predict_proba(inputs)
    if not {*UNCERTAINTY}.isdisjoint(found):
        expected.update(model.predict_uncertainty(inputs)._asdict())
    if "novelty" in found:
        expected["novelty"] = model.novelty(inputs)
    labels = model.predict(inputs)
    if "variable" in found:
        expected["variable"] = labels.reshape(found["variable"].shape)
    else:
        expected["label"] = labels
    if "label" in found and "probabilities" in found:
        # Where two classes are equally likely, rounding may choose either.
        best = np.sort(expected["probabilities"], axis=1)
        clear = best[:, -1] - best[:, -2] > 2 * tolerance
        expected["label"] = np.where(clear, labels, found["label"])
    for name in expected.keys() & found.keys():
        value, right = np.asarray(found[name]), np.asarray(expected[name])
        if name == "label":
            same = value.shape == right.shape and bool((value == right).all())
        else:
            # The numbers of a regressor have a size of their own.
            least = 1e-12 if name == "variable" else 1.0
            size = max(least, float(np.abs(right).max(initial=0)))
            same = value.shape == right.shape
            same = same and bool(np.allclose(value, right, rtol=0, atol=tolerance * size))
        if not same:
            raise RuntimeError(
                f"nothing was written: on examples that were tried, the file gives {name} "
                f"{value.ravel()[:4]}, but this {type(model).__name__} {right.ravel()[:4]}"
            )
