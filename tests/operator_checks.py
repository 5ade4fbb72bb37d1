"""Every conversion is held against MXNet itself, bound without the fusion that is wrong."""

import json
import os
import zlib
from importlib.util import find_spec
from unittest import mock

import numpy as np
import onnxruntime

from xfer.checkpoint.convert import convert
from xfer.checkpoint.onnx_builder import BATCH
from xfer.checkpoint.symbol import MxGraph

HAS_TORCH = find_spec("torch") is not None


def check(mx, symbol, data, *, parameters=None, tolerance=1e-5, free_batch=True, seed=0):
    """Compare a symbol's outputs on MXNet and, converted, on ONNX Runtime and PyTorch.

    Parameters
    ----------
    mx : module
    symbol : mxnet.sym.Symbol
        With any number of outputs; all are compared, in values, shape and kind of number.
    data : dict of str to ndarray
        A batch of each input: the first axis is the example. What else the symbol needs is drawn
        at random, or taken from `parameters`.
    parameters : dict of str to ndarray, optional
    tolerance : float
        Largest error, relative to the largest number of the output (or 1, if that is smaller).
    free_batch : bool
        Convert once with a free number of examples, and run with all the rows and with one row
        less; otherwise convert with the number of rows as it is.
    """
    parameters = {**draw_parameters(symbol, data, seed), **(parameters or {})}
    batches = [data]
    if free_batch:
        batches.append({name: array[:-1] for name, array in data.items()})
    graph = MxGraph.from_json(symbol.tojson())
    shapes = {
        name: (array.dtype, (BATCH, *array.shape[1:]) if free_batch else array.shape)
        for name, array in data.items()
    }
    builder, values = convert_all(graph, parameters, shapes)
    for i, head in enumerate(graph.heads):
        builder.add_output(f"out{i}", values[head])
    session = open_session(builder)
    given = {entry.name for entry in session.get_inputs()}
    module = to_torch(graph, parameters, shapes) if runs_on_torch(graph, data) else None
    for batch in batches:
        expected = run_mxnet(mx, symbol, {**parameters, **batch})
        if module:
            for one, other in zip(run_torch(module, batch), expected, strict=True):
                assert_close(one, other, tolerance)
        found = session.run(None, {name: batch[name] for name in given})
        assert len(found) == len(expected)
        for tensor, one, other in zip(builder.outputs, found, expected):
            rows = len(next(iter(batch.values())))
            told = tuple(d * rows // BATCH if d and d % BATCH == 0 else d for d in tensor.dims)
            assert told == one.shape or not free_batch, (told, one.shape)
            assert_close(one, other, tolerance)


def runs_on_torch(graph, data):
    """Choose half of the cases with real numbers: making a module takes milliseconds.

    The choice depends on the case alone. Operators of PyTorch have tests of their own.
    """
    if not HAS_TORCH or all(array.dtype.kind != "f" for array in data.values()):
        return False
    nodes = [(node.operator, sorted(node.attributes.items())) for node in graph.nodes]
    shapes = [(array.dtype.name, array.shape) for array in data.values()]
    return zlib.crc32(repr((nodes, shapes)).encode()) % 2 == 0


def assert_close(found, expected, tolerance):
    assert found.shape == expected.shape
    if expected.dtype.kind == "f":
        assert found.dtype == np.float32
    else:
        assert found.dtype == expected.dtype
    assert np.array_equal(np.isfinite(found), np.isfinite(expected))
    assert np.array_equal(found[~np.isfinite(found)], expected[~np.isfinite(expected)], True)
    finite = np.isfinite(expected)
    scale = max(1.0, np.abs(expected[finite], dtype=np.float64).max(initial=0))
    error = np.abs(found[finite].astype(np.float64) - expected[finite])
    assert error.max(initial=0) <= tolerance * scale, f"off by {error.max():.3g} of {scale:.3g}"


def draw_parameters(symbol, data, seed=0):
    """Draw what a symbol needs beside the data; variances are positive."""
    random = np.random.RandomState(seed)
    shapes = {name: array.shape for name, array in data.items()}
    found, _, others = symbol.infer_shape(**shapes)
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    parameters = {}
    for name, shape in zip(names, [*found, *others]):
        if name not in data:
            values = random.normal(size=shape, scale=0.5).astype(np.float32)
            parameters[name] = np.abs(values) + 0.5 if name.endswith("_var") else values
    return parameters


def run_mxnet(mx, symbol, arrays):
    """Run a symbol on MXNet in inference mode; return its outputs as arrays."""

    def on_mxnet(names):
        return {name: mx.nd.array(arrays[name], dtype=arrays[name].dtype) for name in names}

    arguments = on_mxnet(symbol.list_arguments())
    executor = bind(mx, symbol, arguments, on_mxnet(symbol.list_auxiliary_states()))
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def one_operator(name, inputs, parameters=None, **attributes):
    """The JSON of a network of one operator, by any of its names, as a file would hold it."""
    variables = [{"op": "null", "name": key, "inputs": []} for key in inputs]
    for key, array in (parameters or {}).items():
        held = {"__shape__": str(array.shape)}
        variables.append({"op": "null", "name": key, "attrs": held, "inputs": []})
    number = len(variables)
    texts = {key: str(value) for key, value in attributes.items()}
    sources = [[place, 0, 0] for place in range(number)]
    node = {"op": name, "name": "node", "attrs": texts, "inputs": sources}
    graph = {"nodes": [*variables, node], "arg_nodes": list(range(number)), "heads": [[number, 0]]}
    return json.dumps({**graph, "attrs": {"mxnet_version": ["int", 10901]}})


def check_operator(mx, name, *inputs, parameters=None, free_batch=True, **attributes):
    """Check one operator on given inputs, and then parameters."""
    data = {f"x{place}": array for place, array in enumerate(inputs)}
    symbol = mx.sym.load_json(one_operator(name, data, parameters, **attributes))
    check(mx, symbol, data, parameters=parameters, free_batch=free_batch)


def run_converted(text, data, dims=None):
    """Run the JSON of a network on ONNX Runtime; return its first output.

    Its inputs have the shapes of the data, or `dims`, in which sizes may be None for unknown.
    """
    graph = MxGraph.from_json(text)
    shapes = {name: (array.dtype, dims or array.shape) for name, array in data.items()}
    builder, values = convert_all(graph, {}, shapes)
    builder.add_output("out", values[graph.heads[0]])
    return open_session(builder).run(None, data)[0]


def convert_all(graph, parameters, inputs):
    """Convert a graph, all of whose heads have to convert; return the builder and the values."""
    conversion = convert(graph, parameters, inputs)
    conversion.check(graph.heads)
    return conversion.builder, conversion.values


def to_torch(graph, parameters, inputs):
    """Make a PyTorch module of a graph, in inference mode."""
    from xfer.checkpoint.network import auxiliary_names
    from xfer.graph_module import build_module

    conversion = convert(graph, parameters, inputs, training=True)
    conversion.check(graph.heads)
    for i, head in enumerate(graph.heads):
        conversion.builder.add_output(f"out{i}", conversion.values[head])
    statistics = auxiliary_names(graph) & parameters.keys()
    model, arrays = conversion.builder.build()
    return build_module(model, arrays, parameters.keys() - statistics, statistics)


def run_torch(module, data):
    """Run a PyTorch module without gradients; return its outputs as arrays."""
    import torch

    with torch.no_grad():
        found = module(*(torch.from_numpy(data[name]) for name in module.meta["input_names"]))
    return [one.detach().numpy() for one in (found if isinstance(found, tuple) else (found,))]


def open_session(builder):
    """Open a session of ONNX Runtime on one core."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # as our own runner
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    model = builder.to_model().SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_network(network, inputs, layer_names):
    """Run a network on ONNX Runtime, cut at layers; return their outputs."""
    graph = network.prune(layer_names)
    shapes = {name: array.shape for name, array in inputs.items()}
    builder, values = convert_all(graph, network.parameters, network.typed(shapes))
    for name, head in zip(layer_names, graph.heads):
        builder.add_output(name, values[head])
    session = open_session(builder)
    return session.run(None, {entry.name: inputs[entry.name] for entry in session.get_inputs()})


def bind(mx, symbol, arrays, auxiliary, gradients="null"):
    """Bind a symbol to MXNet arrays, without the fusion that is wrong."""
    with mock.patch.dict(os.environ, MXNET_SUBGRAPH_BACKEND="NONE"):
        if gradients == "null":
            return symbol.bind(mx.cpu(), arrays, grad_req="null", aux_states=auxiliary)
        return symbol.bind(mx.cpu(), arrays, gradients, aux_states=auxiliary)
