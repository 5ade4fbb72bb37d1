"""ONNX networks as a graph with arrays beside it, and sessions of ONNX Runtime that run them."""

import os
import re
import warnings

import joblib
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

# Smaller arrays go into the graph whole: shapes, axes and the like are among them, and ONNX Runtime
# infers shapes only from those that it finds there.
_LEAST_BYTES = 1024


def open_session(model, parameters=None):
    """Open a network for inference on the CPU.

    Parameters
    ----------
    model : onnx.ModelProto
        The network. What ``parameters`` holds is left out of its ``graph.initializer``; what is
        listed there is used as it is. It is not changed.
    parameters : dict of str to ndarray, optional
        Initializers by name, of any size: they are not serialized, so that they may exceed the 2 GB
        of a protocol buffer. None may be an input of the graph as well: it would no longer be
        constant, and fusions need constants. The arrays must not be written to while the session
        lives.

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    Exception
        ONNX Runtime's own, if it does not take the network. Nothing is printed.

    Notes
    -----
    Measured with ONNX Runtime 1.32 on 200 MB of parameters, beside the arrays themselves. With the
    parameters serialized into the model, a session of matrix products takes 1.5 s and 800 MB; this
    way it takes 0.3 s and 200 to 400 MB, the packed copy that it computes with among them. An
    embedding of 200 MB takes 10 MB once the session is open. Convolutions take 200 MB, and 500 MB
    while it opens. The optimized graphs are the same.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import TensorProto, helper
    >>> data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 2])
    >>> out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3])
    >>> node = helper.make_node("MatMul", ["data", "weight"], ["out"])
    >>> model = helper.make_model(helper.make_graph([node], "net", [data], [out]), ir_version=8)
    >>> session = open_session(model, {"weight": np.ones((2, 3), np.float32)})
    >>> session.run(None, {"data": np.ones((1, 2), np.float32)})[0]
    array([[2., 2., 2.]], dtype=float32)
    """
    listed, outside = list_parameters(model, parameters or {})
    # ONNX Runtime borrows memory that lies in order.
    outside = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
        for name, array in outside.items()
    }
    options = _options()
    # These are known before the graph is optimized, so that fusions see them as constants.
    options.add_external_initializers(list(outside), list(outside.values()))
    # It would keep a copy of what it does not pack into a form of its own, such as embeddings.
    # Lending it the arrays prevents that; but it takes them by name, and would take the wrong
    # values where the optimizer has transposed an array in place.
    lent = {name: outside[name] for name in _embeddings(model.graph) & outside.keys()}
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


def self_contained(model, parameters):
    """Put a network together in one protocol buffer, to be written to an ``.onnx`` file.

    Parameters
    ----------
    model : onnx.ModelProto
    parameters : dict of str to ndarray
        As in :func:`open_session`.

    Returns
    -------
    onnx.ModelProto
        A copy. Above 2 GB, ``onnx.save_model`` writes it with ``save_as_external_data=True``.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for name, array in parameters.items():
        whole.graph.initializer.append(numpy_helper.from_array(array, name))
    return whole


def list_parameters(model, parameters):
    """List parameters in a graph: the small ones whole, of the others only their shapes.

    Parameters
    ----------
    model : onnx.ModelProto
    parameters : dict of str to ndarray
        As in :func:`open_session`.

    Returns
    -------
    listed : onnx.ModelProto
        A copy, good for inferring shapes.
    outside : dict of str to ndarray
        The parameters whose values it does not hold.
    """
    listed = onnx.ModelProto()
    listed.CopyFrom(model)
    outside = {name: array for name, array in parameters.items() if array.nbytes >= _LEAST_BYTES}
    listed.graph.initializer.extend(
        _placeholder(name, array) if name in outside else numpy_helper.from_array(array, name)
        for name, array in parameters.items()
    )
    return listed, outside


class BatchRunner:
    """Computes batches with a session for some layers, and sees that no features mix examples.

    Parameters
    ----------
    graph : OnnxGraph
        Cut after the layers.
    names : sequence of str
        The layers.

    Raises
    ------
    ValueError
        If ONNX Runtime cannot run the graph.
    """

    def __init__(self, graph, names):
        self.graph = graph
        self.names = names
        self.types = graph.input_types()
        if not self.types:
            raise ValueError(f"layers {', '.join(names)} depend on no input of the network")
        self.id_limits = list(graph.id_limits())
        self.session = self._open(graph.any_batch())
        self.size = None
        self.checked = False

    def run(self, inputs):
        """Compute one batch.

        Parameters
        ----------
        inputs : dict of str to ndarray of shape (rows, ...)

        Returns
        -------
        list of ndarray of shape (rows, ...)
            One for each layer.

        Raises
        ------
        ValueError
            If the data do not fit the network, or a layer mixes examples.
        """
        inputs = {name: _cast(inputs[name], name, kind) for name, kind in self.types.items()}
        self._check_ids(inputs)
        if self.checked:
            return self._compute(inputs)
        try:
            outputs = self._compute_and_check(inputs)
        except ValueError:
            size = self.graph.batch_size()
            if size is None or self.size is not None:
                raise
            outputs = self._compute_in_own_size(inputs, size)
        # Whether examples are mixed cannot be seen from examples that are all the same.
        self.checked = any((array[0] != array[-1]).any() for array in inputs.values())
        return outputs

    def _compute_in_own_size(self, inputs, size):
        """Compute in batches of the size that the network was written for."""
        free = self.session
        self.session, self.size = self._open(self.graph), size
        try:
            return self._compute_and_check(inputs)
        except ValueError:
            # It is the data that are wrong.
            self.session, self.size = free, None
            raise

    def _open(self, graph):
        try:
            return open_session(graph.model, graph.parameters)
        except Exception as error:
            foreign = ", ".join(graph.foreign_operators())
            raise ValueError(
                f"ONNX Runtime cannot run the network up to {', '.join(self.names)}: "
                f"{_reason(error)}{foreign and f'; it has none of {foreign}'}"
            ) from error

    def _compute_and_check(self, inputs):
        """Compute a batch, and see that an example has the same features in another batch."""
        outputs = self._compute(inputs)
        rows = _rows(inputs)
        # Another number, where the network takes any: the first axis can be as long by chance.
        # Another order too, and not just turned round: a network that reverses would stand that.
        number = min(rows, self.size) if self.size else 4 if rows == 3 else 3
        index = np.array([-1] + [0] * (number - 1))
        others = self._compute({name: array[index] for name, array in inputs.items()})
        for name, output, other in zip(self.names, outputs, others):
            if output.dtype.kind not in "fiub":
                raise ValueError(f"layer {name!r} gives {output.dtype}, not numbers")
            if other.shape != (len(index), *output.shape[1:]) or not self._agree(
                output[index], other
            ):
                raise ValueError(
                    f"layer {name!r} gives an example other features in another batch; features "
                    "must not depend on the other examples, nor on chance"
                )
        return outputs

    def _agree(self, output, other):
        # Sums are rounded in another order; quantizing by the range of a batch rounds much more.
        scale = np.abs(output[np.isfinite(output)], dtype=np.float64).max(initial=0)
        return self.graph.quantizes_by_batch() or np.allclose(
            output, other, rtol=0, atol=0.01 * scale, equal_nan=True
        )

    def _compute(self, inputs):
        rows = _rows(inputs)
        if self.size is None:
            return self._run(inputs, rows)
        parts = []
        for start in range(0, rows, self.size):
            # The last part may have less than its share: it computes the last row again.
            index = np.minimum(np.arange(start, start + self.size), rows - 1)
            parts.append(self._run({n: array[index] for n, array in inputs.items()}, self.size))
        return [np.concatenate(outputs)[:rows] for outputs in zip(*parts)]

    def _run(self, inputs, rows):
        examples = {name: array.shape[1:] for name, array in inputs.items()}
        examples = next(iter(examples.values())) if len(examples) == 1 else examples
        try:
            outputs = self.session.run(self.names, inputs)
        except Exception as error:
            raise ValueError(
                f"data of shape {examples} for one example do not fit the network: {_reason(error)}"
            ) from error
        for name, output in zip(self.names, outputs):
            shape = np.shape(output)
            if not shape or shape[0] != rows:
                raise ValueError(
                    f"layer {name!r} has output shape {shape} for a batch of {rows} examples of "
                    f"shape {examples}; features need one row for each example on the first axis"
                )
        return outputs

    def _check_ids(self, inputs):
        """Refuse word ids that an embedding does not have: negative ones count from its end."""
        for name, layer, number in self.id_limits:
            ids = inputs[name]
            if ids.min() < 0 or ids.max() >= number:
                found = ids.min() if ids.min() < 0 else ids.max()
                raise ValueError(
                    f"the data hold id {found:.0f}; layer {layer!r} knows ids 0 to {number - 1}: "
                    "was the corpus made with the network's own vocabulary?"
                )


def _placeholder(name, array):
    """List a parameter in the form that ONNX Runtime replaces: one that is in another file."""
    tensor = onnx.TensorProto(name=name, dims=array.shape)
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="memory")
    return tensor


def _embeddings(graph):
    """Name what is only ever looked up in: no optimization rewrites such an array in place."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if any(attribute.HasField("g") or attribute.graphs for attribute in attributes):
        return set()  # the body of a loop or a condition may read it too
    tables, others = set(), {output.name for output in graph.output}
    for node in graph.node:
        looks_up = node.op_type == "Gather" and not node.domain
        tables.update(node.input[:1] if looks_up else ())
        others.update(node.input[1:] if looks_up else node.input)
    return tables - others


def _options():
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads of a number that was asked for are not pinned to cores: pinning fails loudly where a
    # container has only some of them.
    options.intra_op_num_threads = _threads()
    options.inter_op_num_threads = 1
    # Fatal errors only: the others are exceptions, and are printed as well if asked for here.
    options.log_severity_level = 4
    # A plan of memory is one block for all of a batch's layers beside those that the first batch
    # took: ResNet-18 on 32 images took 335 MB instead of 206, and was no faster with it. Without
    # the arena, every batch asks the system again: 10% slower.
    options.enable_mem_pattern = False
    # Idle threads wait busily within a run, which pays, but not after it: a matrix product of
    # NumPy's right after a run took twice its time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _threads():
    """Count the cores to compute on.

    Physical ones, as arithmetic saturates a core; fewer where the process's affinity, a container
    or the environment that worker processes and thread pools go by allow fewer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where physical cores cannot be told from logical ones
        cores = joblib.cpu_count(only_physical_cores=True)
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(cores, int(limit)) if limit.isdecimal() and int(limit) else cores


def _rows(inputs):
    return len(next(iter(inputs.values())))


def _cast(array, name, kind):
    """Return an input in the dtype that the network takes, if that holds its numbers."""
    with np.errstate(all="ignore"):
        cast = array.astype(kind, copy=False)
    wrong = ~np.isfinite(cast) if kind.kind == "f" else cast != array
    if wrong.any():
        raise ValueError(f"input {name!r} takes numbers of {kind}, got {array[wrong][0]}")
    return cast


def _reason(error):
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
