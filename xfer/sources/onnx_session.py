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


def reason_of(error):
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
