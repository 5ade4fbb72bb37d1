"""Apache MXNet Modules as sources of features."""

import hashlib
import json
import os
import threading
from collections import OrderedDict
from contextlib import contextmanager

import mxnet as mx
import numpy as np

from xfer.sources.base import Layer, SourceModel

_BIND_LOCK = threading.Lock()
_MOST_EXECUTORS = 8


class ModuleSource(SourceModel):
    """An MXNet Module, read once.

    Parameters
    ----------
    module : mxnet.mod.Module
        With parameters; bound or not. It is never changed.
    context_function : callable, optional
        Makes the device of each number; by default the Module's first device is used.
    num_devices : int, default=1
        How many devices share each batch.

    Raises
    ------
    TypeError
        If ``module`` is another kind of MXNet model.
    ValueError
        If the Module has no parameters.
    """

    def __init__(self, module, *, context_function=None, num_devices=1):
        if not isinstance(module, mx.mod.Module):
            raise TypeError(
                f"cannot open {type(module).__module__}.{type(module).__name__} as a source "
                "model; allowed is an mxnet.mod.Module"
            )
        if not module.params_initialized:
            raise ValueError(
                "the Module has no parameters: load them with mx.mod.Module.load(prefix, epoch), "
                "or bind it and call set_params(arg_params, aux_params)"
            )
        if module.binded:
            parameters, statistics = module.get_params()
            self._data_shapes = {data.name: tuple(data.shape) for data in module.data_shapes}
            self._data_types = {data.name: data.dtype for data in module.data_shapes}
            self.batch_size = next(iter(self._data_shapes.values()))[0]
        else:
            # A Module that was loaded and not bound has its parameters nowhere else.
            parameters, statistics = module._arg_params, module._aux_params
            self._data_shapes, self._data_types = {}, {}
        # Copies, so that training the Module further does not change features under a classifier
        # that was fitted on them.
        parameters = {name: array.copy() for name, array in parameters.items()}
        statistics = {name: array.copy() for name, array in statistics.items()}
        contexts = module._context[:1]
        if context_function is not None:
            contexts = [context_function(number) for number in range(num_devices)]
        elif num_devices > 1:
            contexts = [mx.Context(contexts[0].device_type, n) for n in range(num_devices)]
        # Labels and states are inputs that have no say in inference: they are fed zeros.
        idle_names = [*module.label_names, *module._state_names]
        self._set(module.symbol, parameters, statistics, module.data_names, idle_names, contexts)

    @classmethod
    def from_parts(cls, description, arrays):
        """Put a network together that :meth:`parts` took apart.

        Parameters
        ----------
        description : dict
        arrays : dict of str to ndarray

        Returns
        -------
        ModuleSource
            On the first CPU.
        """
        source = cls.__new__(cls)
        source.batch_size = int(description["batch_size"])
        source._data_shapes, source._data_types = {}, {}
        arrays = {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}
        source._set(
            mx.sym.load_json(json.dumps(_checked_graph(description["graph"]))),
            _with_prefix("arg:", arrays),
            _with_prefix("aux:", arrays),
            description["input_names"],
            description["idle_names"],
            [mx.cpu()],
        )
        return source

    def _set(self, symbol, parameters, statistics, input_names, idle_names, contexts):
        self._symbol = symbol
        self._internals = symbol.get_internals()
        self._entries = self._internals.list_outputs()
        self._arguments = set(symbol.list_arguments())
        self._nodes = json.loads(symbol.tojson())["nodes"]
        self._parameters = parameters
        self._statistics = statistics
        self._input_names = list(input_names)
        self._idle_names = list(idle_names)
        self._contexts = contexts
        self._executors = OrderedDict()
        self._positions = {}
        self._layers = None

    @property
    def layers(self):
        """Every operator of the graph, in topological order (list of Layer)."""
        if self._layers is None:
            self._layers = self._list_layers()
        return self._layers

    @property
    def input_names(self):
        """The Module's data names (list of str)."""
        return self._input_names

    def parts(self):
        """Take the network apart, for saving.

        Returns
        -------
        description : dict
            Goes into JSON.
        arrays : dict of str to ndarray
            The parameters, named as in MXNet's own files: ``arg:`` or ``aux:`` and the name.
        """
        description = {
            "kind": "mxnet",
            "graph": json.loads(self._symbol.tojson()),
            "input_names": self._input_names,
            "idle_names": self._idle_names,
            # Another batch size can round the last digit of a feature another way.
            "batch_size": self.batch_size,
        }
        arrays = {f"arg:{name}": array.asnumpy() for name, array in self._parameters.items()}
        arrays.update({f"aux:{name}": array.asnumpy() for name, array in self._statistics.items()})
        return description, arrays

    def fingerprint(self, layer_names):
        """Tell what decides the features of some layers, to know the same network again.

        Parameters
        ----------
        layer_names : list of str

        Returns
        -------
        dict
            Checksums of the graph up to the layers, and of each parameter in it.
        """
        symbol = self._group([layer.name for layer in self.find_layers(layer_names)])
        graph = json.loads(symbol.tojson())
        # Attributes in underscores, such as learning-rate factors, play no part in inference.
        nodes = [
            (
                node["op"],
                node["name"],
                sorted((k, v) for k, v in node.get("attrs", {}).items() if k[:2] != "__"),
                node["inputs"],
            )
            for node in graph["nodes"]
        ]
        arrays = {**self._parameters, **self._statistics}
        used = [node["name"] for node in graph["nodes"] if node["op"] == "null"]
        return {
            "graph": _checksum(json.dumps([nodes, graph["heads"]]).encode()),
            "parameters": {
                name: _checksum(
                    f"{arrays[name].dtype} {arrays[name].shape}".encode(), arrays[name].asnumpy()
                )
                for name in used
                if name in arrays
            },
        }

    def _find_layer(self, name):
        if isinstance(name, str) and name.endswith("_output") and name not in self.layer_names:
            name = name.removesuffix("_output")
        return super()._find_layer(name)

    def _forward(self, inputs, layers):
        self._check_ids(inputs)
        rows = len(next(iter(inputs.values())))
        share = -(-rows // len(self._contexts))
        shapes = {name: (share, *array.shape[1:]) for name, array in inputs.items()}
        executors = self._executors_for(tuple(layer.name for layer in layers), shapes)
        for number, executor in enumerate(executors):
            # The last device may get less than its share: it computes the last row again.
            index = np.minimum(np.arange(number * share, (number + 1) * share), rows - 1)
            for name, array in inputs.items():
                if name in executor.arg_dict:
                    executor.arg_dict[name][:] = array if len(executors) == 1 else array[index]
            executor.forward(is_train=False)
        if len(executors) == 1:
            return [output.asnumpy() for output in executors[0].outputs]
        outputs = zip(*(executor.outputs for executor in executors))
        return [np.concatenate([part.asnumpy() for part in parts])[:rows] for parts in outputs]

    def _check_ids(self, inputs):
        """Refuse word ids that an Embedding does not have: MXNet would take the nearest it has."""
        for node in self._nodes:
            if node["op"] != "Embedding":
                continue
            array = inputs.get(self._nodes[node["inputs"][0][0]]["name"])
            number = int(node["attrs"]["input_dim"])
            if array is not None and (array.min() < 0 or array.max() >= number):
                found = array.min() if array.min() < 0 else array.max()
                raise ValueError(
                    f"the data hold id {found:.0f}; layer {node['name']!r} knows ids 0 to "
                    f"{number - 1}: was the corpus made with the network's own vocabulary?"
                )

    def _executors_for(self, names, shapes):
        key = (names, tuple(sorted(shapes.items())))
        if key not in self._executors:
            self._executors[key] = self._bind(names, shapes)
            if len(self._executors) > _MOST_EXECUTORS:
                self._executors.popitem(last=False)
        self._executors.move_to_end(key)
        return self._executors[key]

    def _bind(self, names, shapes):
        symbol = self._group(names)
        argument_shapes = self._infer(symbol, shapes)
        self._check_one_row_an_example(symbol, names, shapes)
        dtypes = dict.fromkeys(self._input_names, np.float32)
        dtypes.update({name: array.dtype for name, array in self._parameters.items()})
        dtypes.update(self._data_types)
        arguments = symbol.list_arguments()
        known = {name: dtypes[name] for name in arguments if name in dtypes}
        argument_types = symbol.infer_type(**known)[0]
        if not self._data_shapes:
            # From now on the table of layers can tell their shapes.
            self._data_shapes = shapes
            self._layers = None
        executors = []
        for context in self._contexts:
            arrays = {}
            for name, shape, dtype in zip(arguments, argument_shapes, argument_types):
                if name in self._parameters:
                    arrays[name] = self._parameters[name].as_in_context(context)
                else:
                    arrays[name] = mx.nd.zeros(shape, ctx=context, dtype=dtype)
            statistics = {
                name: self._statistics[name].as_in_context(context)
                for name in symbol.list_auxiliary_states()
            }
            with _without_subgraph_backend():
                executor = symbol.bind(context, arrays, grad_req="null", aux_states=statistics)
            executors.append(executor)
        return executors

    def _group(self, names):
        return mx.sym.Group([self._internals[self._positions[name]] for name in names])

    def _infer(self, symbol, shapes):
        arguments = symbol.list_arguments()
        known = {name: array.shape for name, array in self._parameters.items()}
        known = {name: shape for name, shape in {**known, **shapes}.items() if name in arguments}
        try:
            found, _, _ = symbol.infer_shape(**known)
        except mx.MXNetError as error:
            raise ValueError(
                f"data of shape {_per_example(shapes)} for one example do not fit the network"
                f"{self._expected_shapes()}: {_last_line(error)}"
            ) from error
        if found is None:
            raise ValueError(f"the network's shapes cannot be told from data of {shapes}")
        missing = [
            name
            for name in [*arguments, *symbol.list_auxiliary_states()]
            if name not in self._parameters
            and name not in self._statistics
            and name not in self._input_names
            and name not in self._idle_names
        ]
        if missing:
            raise ValueError(f"the Module has no parameters named {', '.join(missing)}")
        return found

    def _check_one_row_an_example(self, symbol, names, shapes):
        """Refuse layers that mix examples: their rows must follow the batch, not happen to."""
        arguments = symbol.list_arguments()
        for extra in (0, 1):
            changed = {name: (shape[0] + extra, *shape[1:]) for name, shape in shapes.items()}
            try:
                _, outputs, _ = symbol.infer_shape(
                    **{n: s for n, s in changed.items() if n in arguments}
                )
            except mx.MXNetError:
                # The graph is written for one batch size, which the first round has seen.
                continue
            rows = next(iter(changed.values()))[0]
            for name, shape in zip(names, outputs or ()):
                if not shape or shape[0] != rows:
                    raise ValueError(
                        f"layer {name!r} has output shape {shape} for a batch of {rows} examples "
                        f"of shape {_per_example(shapes)}{self._expected_shapes()}; features need "
                        "one row for each example on the first axis"
                    )

    def _list_layers(self):
        shapes = self._layer_shapes()
        layers = []
        for node, positions in self._operators():
            count = sum(
                int(np.prod(self._parameters[name].shape))
                for name in (self._nodes[source[0]]["name"] for source in node["inputs"])
                if name in self._parameters
            )
            for position in positions:
                name = self._entries[position] if len(positions) > 1 else node["name"]
                self._positions[name] = position
                layers.append(Layer(name, node["op"], shapes[position], count))
                count = 0
        return layers

    def _operators(self):
        """Yield each operator's node with the positions of its outputs in the internals."""
        owners = [self._internals[position].name for position in range(len(self._entries))]
        position = 0
        for node in self._nodes:
            first = position
            position += 1
            while (
                position < len(owners)
                and owners[position] == node["name"]
                and self._entries[position] not in self._entries[first:position]
            ):
                position += 1
            if node["op"] != "null":
                yield node, range(first, position)

    def _layer_shapes(self):
        known = {**{n: a.shape for n, a in self._parameters.items()}, **self._data_shapes}
        known = {name: shape for name, shape in known.items() if name in self._arguments}
        try:
            _, shapes, _ = self._internals.infer_shape_partial(**known)
        except mx.MXNetError:
            shapes = None
        return [_without_unknown(shape) for shape in shapes or [()] * len(self._entries)]

    def _expected_shapes(self):
        shapes = {name: shape[1:] for name, shape in self._data_shapes.items()}
        return f" (it was bound with {shapes})" if shapes else ""


@contextmanager
def _without_subgraph_backend():
    """Keep MXNet from fusing operators while it binds.

    Its MKLDNN subgraph backend, the default on a CPU, adds a convolution's output into a tensor
    that is still needed, as the shortcut of every pre-activation ResNet is, and silently gives
    wrong features from there on.
    """
    name = "MXNET_SUBGRAPH_BACKEND"
    with _BIND_LOCK:
        before = os.environ.get(name)
        os.environ[name] = "NONE"
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def _without_unknown(shape):
    """Shape for one example; MXNet says 0 for a size that it could not infer."""
    return tuple(size or None for size in shape[1:]) if shape else None


def _per_example(shapes):
    shapes = {name: shape[1:] for name, shape in shapes.items()}
    return next(iter(shapes.values())) if len(shapes) == 1 else shapes


def _last_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _with_prefix(prefix, arrays):
    found = {name: array for name, array in arrays.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): array for name, array in found.items()}


def _checked_graph(graph):
    """Refuse a graph whose nodes do not follow what they need, before MXNet follows its indices."""
    nodes = graph["nodes"]
    for number, node in enumerate(nodes):
        if any(not 0 <= source[0] < number for source in node["inputs"]):
            raise ValueError(f"node {number} of the graph takes inputs that do not come before it")
    for indices in (graph["arg_nodes"], [head[0] for head in graph["heads"]]):
        if any(not 0 <= index < len(nodes) for index in indices):
            raise ValueError(f"the graph names nodes that are not among its {len(nodes)}")
    return graph


def _checksum(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
