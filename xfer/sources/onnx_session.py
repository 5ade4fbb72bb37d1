"""ONNX graphs run by ONNX Runtime on the CPU."""

import ctypes
import os
import re
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import joblib
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from xfer.sources.base import channels_advice, check_rows, example_shapes, examples_first
from xfer.sources.data import check_ids

# Smaller arrays go into the graph whole: shapes, axes and the like are among them, and shapes are
# inferred only from values that are found there.
_LEAST_BYTES = 1024

# A session's threads are not in a forked process: there, using it can wait for them for ever, and
# destroying it ends the process. So each process opens its own, and the others stay in memory.
_sessions: "weakref.WeakSet[onnxruntime.InferenceSession]" = weakref.WeakSet()


def _keep_sessions() -> None:
    for session in list(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_sessions)


class Runner:
    """A session for a graph whose outputs are layers; for batches of one size, or of any (None)."""

    def __init__(
        self,
        names: tuple[str, ...],
        model: onnx.ModelProto,
        parameters: Mapping[str, np.ndarray],
        types: Mapping[str, np.dtype],
        size: int | None,
        id_limits: Iterable[tuple[str, str, int]] = (),
        batch_axes: Mapping[str, int] = MappingProxyType({}),
        places: Sequence[tuple[int, int]] = (),
    ) -> None:
        if not types:
            raise ValueError(f"layers {', '.join(names)} depend on no input of the network")
        self.names, self.types, self.size, self.id_limits = names, types, size, list(id_limits)
        self.model, self.parameters = model, parameters
        self.batch_axes, self.places = batch_axes, places or [(0, 1)] * len(names)
        self._open()

    def _open(self) -> None:
        try:
            self.session = open_session(self.model, self.parameters)
        except Exception as error:  # ONNX Runtime has no one class of errors
            raise ValueError(
                f"ONNX Runtime cannot run the network up to {', '.join(self.names)}: "
                f"{reason_of(error)}"
            ) from error
        self._process = os.getpid()

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Compute one batch, in parts of the fixed size where there is one."""
        inputs = {name: _cast(inputs[name], name, kind) for name, kind in self.types.items()}
        check_ids(inputs, self.id_limits)
        if self.size is None:
            return self._run(inputs)
        n, parts = len(next(iter(inputs.values()))), []
        for start in range(0, n, self.size):
            # The last part may be short: it computes the last example again.
            index = np.minimum(np.arange(start, start + self.size), n - 1)
            parts.append(self._run({name: array[index] for name, array in inputs.items()}))
        return [np.concatenate(outputs)[:n] for outputs in zip(*parts)]

    def _run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        feeds = {
            name: np.ascontiguousarray(np.moveaxis(array, 0, self.batch_axes.get(name, 0)))
            for name, array in inputs.items()
        }
        if self._process != os.getpid():
            self._open()
        try:
            outputs = self.session.run(None, feeds)
        except Exception as error:
            raise ValueError(
                f"data of shape {example_shapes(inputs)} for one example do not fit the network: "
                f"{reason_of(error)}{channels_advice(inputs)}"
            ) from error
        for name, output in zip(self.names, outputs):
            if not isinstance(output, np.ndarray):
                raise ValueError(
                    f"layer {name!r} gives {type(output).__name__}, not an array: ask for a layer "
                    "before it, or export a classifier of scikit-learn with zipmap=False"
                )
        outputs = [examples_first(one, *place) for one, place in zip(outputs, self.places)]
        for name, output in zip(self.names, outputs):
            check_rows(name, output.shape, inputs)
        return outputs


def open_session(
    model: onnx.ModelProto, parameters: Mapping[str, np.ndarray]
) -> onnxruntime.InferenceSession:
    """Open a network for inference on the CPU.

    The parameters are not serialized, so they may exceed the 2 GB of a protocol buffer. With 200 MB
    of parameters this takes 0.3 s and 200 to 400 MB, where serializing them takes 1.5 s and 800 MB
    (ONNX Runtime 1.32). The arrays must not be written to while the session lives.
    """
    listed, outside = with_placeholders(model, parameters)
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
    lent = {name: values[name] for name in _embeddings(model.graph) & values.keys()}
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
    _sessions.add(session)
    return session


def with_placeholders(
    model: onnx.ModelProto, parameters: Mapping[str, np.ndarray]
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a model that lists its parameters, and the large ones, whose values it lacks."""
    listed = onnx.ModelProto()
    listed.CopyFrom(model)
    outside = {}
    for name, array in parameters.items():
        if array.nbytes < _LEAST_BYTES:
            listed.graph.initializer.append(numpy_helper.from_array(array, name))
            continue
        outside[name] = array
        # ONNX Runtime replaces what is said to be in another file.
        tensor = listed.graph.initializer.add(name=name, dims=array.shape)
        tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="memory")
    return listed, outside


def _embeddings(graph: onnx.GraphProto) -> set[str]:
    """Name the parameters that are only ever looked up in: no optimization rewrites these."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if any(attribute.HasField("g") or attribute.graphs for attribute in attributes):
        return set()  # the body of a loop or a condition may read them too
    tables: set[str] = set()
    others = {output.name for output in graph.output}
    for node in graph.node:
        looks_up = node.op_type == "Gather" and not node.domain
        tables.update(node.input[:1] if looks_up else ())
        others.update(node.input[1:] if looks_up else node.input)
    return tables - others


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
    # Without it, sums of products in 8 bits overflow on processors that lack VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
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
