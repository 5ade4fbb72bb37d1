"""ONNX networks as sources of features, run by ONNX Runtime on the CPU."""

import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import onnxruntime

from xfer.sources.base import Layer, SourceModel, check_rows, example_shapes
from xfer.sources.batches import Examples, check_ids, take
from xfer.sources.onnx_model import OnnxGraph, parse, take_apart

_MOST_SESSIONS = 8


class OnnxSource(SourceModel):
    """An ONNX network, read once and run by ONNX Runtime on the CPU.

    Parameters
    ----------
    model : str, path-like, or onnx.ModelProto
        An ``.onnx`` file, whose external data are in its folder or below, or a network in memory.
        It is never changed.

    Raises
    ------
    TypeError
        If ``model`` is something else.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or reads files outside its folder.

    Notes
    -----
    A network written for batches of one size runs on other sizes where its features stay the same,
    and otherwise in batches of its own size. Operators of domains that ONNX Runtime does not know
    are never loaded; layers before them can still be asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import TensorProto, helper
    >>> data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 2])
    >>> out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 2])
    >>> node = helper.make_node("Relu", ["data"], ["out"])
    >>> model = helper.make_model(helper.make_graph([node], "net", [data], [out]), ir_version=8)
    >>> source = OnnxSource(model)
    >>> source
    OnnxSource(1 layers, inputs: data)
    >>> source.extract(np.array([[-1.0, 2.0]]), "out").matrix
    array([[0., 2.]], dtype=float32)
    """

    def __init__(self, model: str | os.PathLike[str] | onnx.ModelProto) -> None:
        if isinstance(model, onnx.ModelProto):
            graph = OnnxGraph(*take_apart(model))
        elif isinstance(model, (str, os.PathLike)):
            graph = _read(Path(model))
        else:
            raise TypeError(
                f"cannot open {type(model).__name__} as an ONNX network; allowed are the path of "
                "an .onnx file and an onnx.ModelProto"
            )
        self._set(graph)

    def _set(self, graph: OnnxGraph) -> None:
        self._graph = graph
        self._layers: list[Layer] | None = graph.layers()
        self._set_caches()

    def _set_caches(self) -> None:
        self._runners: OrderedDict[Any, _Runner] = OrderedDict()
        self._fingerprint_memo: dict[tuple[str, ...], dict[str, Any]] = {}
        self._inputs_memo: dict[tuple[str, ...], list[str]] = {}
        # The batch size that layers are computed in, where others do not work.
        self._own_sizes: dict[tuple[str, ...], int] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Sessions cannot travel to another process; they are opened again there.
        return {**self.__dict__, "_runners": OrderedDict()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "OnnxSource":
        """Make a source of what `to_state` returned; raises ValueError where it is damaged."""
        model = parse(np.asarray(arrays["graph"], np.uint8).tobytes())
        names = enumerate(state["parameters"])
        parameters = {name: arrays[f"parameter/{index}"] for index, name in names}
        source = cls.__new__(cls)
        source.batch_size = int(state["batch_size"])
        source._set(OnnxGraph(take_apart(model)[0], parameters))
        return source

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the network as what JSON can hold, and arrays."""
        parameters = self._graph.parameters
        state = {
            "kind": "onnx",
            # A name may hold anything, so it cannot name a file.
            "parameters": list(parameters),
            # Another batch size can round the last digit of a feature another way.
            "batch_size": self.batch_size,
        }
        graph = np.frombuffer(self._graph.model.SerializeToString(), np.uint8)
        indexed = enumerate(parameters.values())
        return state, {"graph": graph, **{f"parameter/{i}": array for i, array in indexed}}

    @property
    def layers(self) -> list[Layer]:
        """Every output of every operator, in topological order."""
        assert self._layers is not None
        return self._layers

    @property
    def input_names(self) -> list[str]:
        """The declared inputs that are not initializers."""
        return self._graph.input_names

    def fingerprint(self, layer_names: str | Sequence[str]) -> dict[str, Any]:
        """Return checksums of the graph up to some layers, and of each parameter in it."""
        names = tuple(layer.name for layer in self._look_up(layer_names))
        if names not in self._fingerprint_memo:
            self._fingerprint_memo[names] = self._checksums(names)
        return self._fingerprint_memo[names]

    def _checksums(self, names: tuple[str, ...]) -> dict[str, Any]:
        return self._graph.cut(names).checksums()

    def _find_layer(self, name: str) -> Layer:
        if name not in self.layer_names:
            # Exporters name operators as the network's author did, and their outputs by index.
            outputs = self._graph.outputs_of(name)
            name = outputs[0] if len(outputs) == 1 else name
        return super()._find_layer(name)

    def _inputs_of(self, layers: Sequence[Layer]) -> list[str]:
        names = tuple(layer.name for layer in layers)
        if names not in self._inputs_memo:
            self._inputs_memo[names] = self._read_inputs(names) or self.input_names
        return self._inputs_memo[names]

    def _read_inputs(self, names: tuple[str, ...]) -> list[str]:
        return self._graph.cut(names).input_names

    def _compute(
        self, examples: Examples, layers: tuple[Layer, ...], poolings: Sequence[str]
    ) -> list[np.ndarray]:
        """Compute a batch; in batches of the network's own size where others do not work."""
        inputs = self.prepare(examples, self._inputs_of(layers))
        try:
            return super()._compute(inputs, layers, poolings)
        except ValueError:
            names = tuple(layer.name for layer in layers)
            size = self._fixed_batch_size(names)
            if size is None or names in self._own_sizes:
                raise
            self._own_sizes[names] = size
            try:
                return super()._compute(inputs, layers, poolings)
            except ValueError:
                del self._own_sizes[names]  # the data are wrong, not the batch size
                raise

    def _fixed_batch_size(self, names: tuple[str, ...]) -> int | None:
        return self._graph.cut(names).batch_size()

    def _forward(
        self, inputs: dict[str, np.ndarray], layers: tuple[Layer, ...]
    ) -> Sequence[np.ndarray]:
        names = tuple(layer.name for layer in layers)
        outputs = self._run(self._graph, names, inputs, self._own_sizes.get(names))
        if any(layer.shape is None or None in layer.shape for layer in layers):
            # From now on the table of layers can show these shapes.
            seen = {name: output.shape[1:] for name, output in zip(names, outputs)}
            self._layers = [replace(e, shape=seen.get(e.name, e.shape)) for e in self.layers]
        return outputs

    def _run(
        self,
        graph: OnnxGraph,
        outputs: tuple[str, ...],
        inputs: dict[str, np.ndarray],
        size: int | None,
    ) -> list[np.ndarray]:
        """Run a graph up to some outputs, in batches of a size or of any (None)."""
        key = id(graph), outputs, size
        if key not in self._runners:
            self._runners[key] = _Runner(graph, outputs, size)
            if len(self._runners) > _MOST_SESSIONS:
                self._runners.popitem(last=False)
        self._runners.move_to_end(key)
        return self._runners[key].run(inputs)

    @property
    def _tolerance(self) -> float:
        return np.inf if self._graph.quantizes_by_batch() else super()._tolerance


class _Runner:
    """A session for some outputs of a graph; for batches of one size, or of any (None)."""

    def __init__(self, graph: OnnxGraph, outputs: tuple[str, ...], size: int | None) -> None:
        self.graph = graph  # kept, so that no other graph gets its id
        self.outputs, self.size = outputs, size
        cut = graph.cut(outputs)
        self.types = cut.input_types()
        if not self.types:
            raise ValueError(f"layers {', '.join(outputs)} depend on no input of the network")
        self.id_limits = list(cut.id_limits())
        try:
            self.session = open_session(cut if size else cut.any_batch())
        except Exception as error:
            foreign = ", ".join(cut.foreign_operators())
            raise ValueError(
                f"ONNX Runtime cannot run the network up to {', '.join(outputs)}: "
                f"{reason_of(error)}{foreign and f'; it has none of {foreign}'}"
            ) from error

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Compute one batch, in parts of the fixed size where there is one."""
        inputs = {name: _cast(inputs[name], name, kind) for name, kind in self.types.items()}
        check_ids(inputs, self.id_limits)
        if self.size is None:
            return self._run(inputs)
        n, parts = len(next(iter(inputs.values()))), []
        for start in range(0, n, self.size):
            # The last part may be short: it computes the last example again.
            index = np.minimum(np.arange(start, start + self.size), n - 1)
            parts.append(self._run(take(inputs, index)))
        return [np.concatenate(outputs)[:n] for outputs in zip(*parts)]

    def _run(self, inputs: Any) -> list[np.ndarray]:
        try:
            outputs = self.session.run(self.outputs, inputs)
        except Exception as error:  # ONNX Runtime has no one class of errors
            raise ValueError(
                f"data of shape {example_shapes(inputs)} for one example do not fit the network: "
                f"{reason_of(error)}"
            ) from error
        for name, output in zip(self.outputs, outputs):
            check_rows(name, np.shape(output), inputs)
        return outputs


def open_session(graph: OnnxGraph) -> onnxruntime.InferenceSession:
    """Open a network for inference on the CPU.

    The parameters are not serialized, so they may exceed the 2 GB of a protocol buffer. With 200 MB
    of parameters this takes 0.3 s and 200 to 400 MB, where serializing them takes 1.5 s and 800 MB
    (ONNX Runtime 1.32). The arrays must not be written to while the session lives.
    """
    listed, outside = graph.with_placeholders()
    # ONNX Runtime borrows memory that lies in order.
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
        for name, array in outside.items()
    }
    options = _options()
    # These are known before the graph is optimized, so that fusions see them as constants.
    options.add_external_initializers(list(values), list(values.values()))
    # It would keep a copy of what it does not pack into a form of its own, such as embeddings.
    # Lending it the arrays prevents that; but it takes them by name, and would take the wrong
    # values where the optimizer has transposed an array in place.
    lent = {name: values[name] for name in graph.embeddings() & values.keys()}
    for name, value in lent.items():
        options.add_initializer(name, value)
    session = onnxruntime.InferenceSession(
        listed.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        # There is no other provider to fall back to, and trying prints.
        enable_fallback=0,
    )
    # It does not keep alive what it was lent.
    session.lent_parameters = lent
    return session


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A fixed number of threads is not pinned to cores: pinning fails loudly where a container has
    # only some of them.
    options.intra_op_num_threads = _threads()
    options.inter_op_num_threads = 1
    # Fatal errors only: the others are exceptions, and would be printed as well.
    options.log_severity_level = 4
    # A memory plan is one block for all layers, beside what the first batch took: ResNet-18 on 32
    # images took 335 MB instead of 206, and was no faster. Without the arena, every batch asks the
    # system again: 10% slower.
    options.enable_mem_pattern = False
    # Idle threads wait busily within a run, which pays, but not after it: a NumPy matrix product
    # right after a run took twice its time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _threads() -> int:
    """Count the physical cores that the process, its container and the environment allow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where physical and logical cores cannot be told apart
        cores = joblib.cpu_count(only_physical_cores=True)
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(cores, int(limit)) if limit.isdecimal() and int(limit) else cores


def reason_of(error: Exception) -> str:
    """Return what ONNX Runtime says without the lines and signatures of its source."""
    reason = " ".join(str(error).split())
    reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", reason)
    at = re.match(
        r"Non-zero status code .*? running (\w+) node\. Name:'(.*?)' Status Message: ", reason
    )
    reason = reason[at.end() :] if at else reason
    reason = re.sub(
        r"^\S+\.(h|cc):\d+ ([^()]*::[^()]*\([^()]*\)( const)?|\w+) (.*? was false\. )?", "", reason
    )
    reason = reason.removesuffix(" Please fix either the inputs/outputs or the model.")
    return f"{at[1]} {at[2]!r}: {reason}" if at else reason


def _cast(array: np.ndarray, name: str, kind: np.dtype) -> np.ndarray:
    """Return an input in the dtype that the network takes, if that can hold its values."""
    with np.errstate(all="ignore"):
        cast = array.astype(kind, copy=False)
    wrong = ~np.isfinite(cast) if kind.kind == "f" else cast != array
    if wrong.any():
        raise ValueError(f"input {name!r} takes numbers of {kind}, got {array[wrong][0]}")
    return cast


def _read(path: Path) -> OnnxGraph:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return OnnxGraph(*take_apart(parse(path.read_bytes()), path.parent))
    except ValueError as error:
        raise ValueError(f"{path} cannot be opened: {error}") from error
