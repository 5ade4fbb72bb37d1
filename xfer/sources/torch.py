"""PyTorch networks as sources of features."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from xfer.sources.base import Layer, SourceModel
from xfer.sources.torch_fingerprint import Fingerprint
from xfer.sources.torch_inputs import Inputs, check_watched
from xfer.sources.torch_layers import Capture, Stop, keep, read_name
from xfer.sources.torch_module import (
    at_rest,
    check_ready,
    class_name,
    device_of,
    dtype_of,
    takes_hooks,
    tensors_of,
    unwrap,
)

# Hooks see every pass of a module, so that there must be one at a time.
_one_pass = threading.RLock()


@dataclass(frozen=True)
class _Started:
    """A batch that a device computes: what comes of it, once some events have happened."""

    outputs: list
    ids: list
    events: list


class TorchSource(SourceModel):
    """A PyTorch network, run where it is.

    Parameters
    ----------
    module : torch.nn.Module
        The network. It is neither copied nor moved, and is after each pass as it was before. What
        distributes or compiles it is left away.
    preprocess : callable, optional
        Gets a list of examples and returns an array or tensor with a row for each, or a dict of
        them by input.
    padding_id : int, optional
        The word id that fills up short sequences; by default that of the network's embeddings.
    autocast : torch.dtype, optional
        What devices may compute with instead of the parameters' own dtype, such as
        ``torch.bfloat16``.

    Raises
    ------
    TypeError
        If ``module`` is something else.
    ValueError
        If parameters hold no numbers yet.

    Notes
    -----
    Layers go by their modules' dotted names, and ``"output"`` is what the whole network puts out.
    A module that is called more than once is asked for by call, as ``"relu:0"``; one that puts out
    several tensors by where the tensor is, as ``"lstm[1][0]"`` or ``"output[logits]"``.

    Inputs are the parameters of the network's ``forward``. Integers stay integers where the network
    has an embedding, and are otherwise made floats, as pixels are.

    The first batch of each shape runs whole, which shows how often each layer is called; later ones
    end after the last layer that is asked for. Networks that call layers more often for some values
    than for others should be asked for single calls.

    Examples
    --------
    >>> import numpy as np
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> source = TorchSource(network)
    >>> source.extract(np.ones((5, 4)), ["1"])["1"].shape
    (5, 3)
    >>> print(source)
    TorchSource(3 layers, inputs: input)
    layer   operator    output shape  parameters
    0       Linear      (3,)          15
    1       ReLU        (3,)          0
    output  Sequential  (3,)          0
    """

    one_batch_size = False
    # The network's own attributes that decide its features; None is all of them.
    _settings = None
    # What layers the network's own output is.
    _whole_outputs = ("output",)
    # Whether other shapes of data may call layers more or less often.
    _calls_follow_shapes = True

    def __init__(self, module, preprocess=None, padding_id=None, *, autocast=None):
        if not isinstance(module, torch.nn.Module):
            raise TypeError(
                f"cannot open {type(module).__name__} as a PyTorch network: {module!r:.80}; a "
                "torch.nn.Module is needed"
            )
        self._module = unwrap(module)
        check_ready(self._module)
        named = self._module.named_modules(remove_duplicate=False)
        self._modules = {name: part for name, part in named if name}
        self._whole = [name for name in self._whole_outputs if name not in self._modules]
        self._names = dict.fromkeys([*self._modules, *self._whole])
        self._inputs = Inputs(self._module, {**self._modules, "output": self._module})
        self.padding_id = self._inputs.padding_id if padding_id is None else padding_id
        self.preprocess = preprocess
        self.autocast = autocast
        self._fingerprint = Fingerprint(self._settings)
        self._shapes = {}
        self._seen_whole = set()
        self._checked = {}

    @property
    def module(self):
        """The network (torch.nn.Module)."""
        return self._module

    @property
    def layers(self):
        """Every named module, and the whole network's output (list of Layer)."""
        return [self._layer(read_name(name, self._names)) for name in self._names]

    @property
    def input_names(self):
        """The parameters of ``forward`` (list of str)."""
        return self._inputs.names

    @property
    def batches_under_way(self):
        """How many batches a device computes while the one before is written (int)."""
        return 2 if device_of(self._module).type == "cuda" else 0

    def start(self, examples, layers, poolings):
        """Compute one batch, or have the device begin to: what goes to :meth:`finish`.

        Parameters
        ----------
        examples : dict of str to ndarray of shape (rows, ...), or list of examples
        layers : tuple of Layer
        poolings : list of str
            One for each layer.

        Returns
        -------
        object

        Raises
        ------
        ValueError
            If the data do not fit the network, or a layer mixes examples.
        """
        inputs = self.prepare(examples, self._inputs_of(layers))
        names = tuple(layer.name for layer in layers)
        shapes = [(name, array.shape[1:]) for name, array in inputs.items()]
        kind = (names, *(shapes if self._calls_follow_shapes else ()))
        asked = (names, tuple(poolings))
        with _one_pass, at_rest(self._module, device_of(self._module), self.autocast):
            started = self._run(inputs, names, poolings, may_stop=kind in self._seen_whole)
            self._seen_whole.add(kind)
            # Whether examples are mixed cannot be seen from examples that are all the same.
            differ = any((array[0] != array[-1]).any() for array in inputs.values())
            if asked not in self._checked or differ > self._checked[asked]:
                self._check(inputs, _wait(started), names, poolings)
                self._checked[asked] = differ
        return started

    def finish(self, started):
        """Wait for what :meth:`start` began.

        Parameters
        ----------
        started : object

        Returns
        -------
        list of ndarray of shape (rows, ...), float32
            One for each layer, pooled.

        Raises
        ------
        ValueError
            If the data hold word ids that an embedding does not have.
        """
        return _wait(started)

    def fingerprint(self, layer_names):
        """Tell what decides the features of some layers, to know the same network again.

        Parameters
        ----------
        layer_names : list of str

        Returns
        -------
        dict
            Checksums of the modules and their settings, of each parameter and buffer, and of the
            source text of classes that are not torch's.
        """
        return {**self._fingerprint.of(self._module), "autocast": str(self.autocast)}

    def version(self):
        """Tell whether the network is still what it was, for processes that were sent it.

        Returns
        -------
        dict
        """
        return self._fingerprint.of(self._module)

    def _fingerprint_each(self, layers):
        # To see that nothing has changed takes a look at all parameters: one for all layers.
        return [self.fingerprint([])] * len(layers)

    def _find_layer(self, name):
        output = read_name(name, self._names) if isinstance(name, str) else None
        return super()._find_layer(name) if output is None else self._layer(output)

    def _layer(self, output):
        module = self._modules.get(output.module, self._module)
        count = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        return Layer(output.name, class_name(module), self._shapes.get(output.name), count)

    def _inputs_of(self, layers):
        return self._inputs.needed

    def _forward(self, inputs, layers):
        return self.finish(self.start(inputs, layers, ["flatten"] * len(layers)))

    def _run(self, inputs, names, poolings, may_stop):
        """Compute one batch up to the last of some layers."""
        rows = len(next(iter(inputs.values())))
        tensors = {name: self._inputs.send(array) for name, array in inputs.items()}
        mask = self._mask(inputs)
        mask = None if mask is None else self._inputs.send(mask)
        poolings = dict(zip(names, poolings))

        def take(output, tensor, is_last):
            self._check_output(output.name, tensor, rows, inputs)
            self._check_pooling(output.name, tensor, poolings[output.name], mask)
            return keep(tensor, poolings[output.name], output.name, mask, is_last)

        capture = Capture([read_name(name, self._names) for name in names], take, may_stop)
        with ExitStack() as hooks:
            ids = self._inputs.watch_ids(hooks)
            for name in {output.module for output in capture.outputs} & self._modules.keys():
                module = self._modules[name]
                if takes_hooks(module):
                    hooks.callback(module.register_forward_hook(capture.hook(name)).remove)
            is_first = not self._shapes
            for name, module in self._modules.items() if is_first else ():
                if takes_hooks(module):
                    hooks.callback(module.register_forward_hook(partial(self._look, name)).remove)
            try:
                for name, value in self._call(tensors).items():
                    if is_first:
                        self._look(name, self._module, (), value)
                    capture.take(name, value)
            except Stop:
                pass
            except (torch.cuda.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:
                if not (may_stop and capture.complete) and capture.error is None:
                    raise _does_not_fit(inputs, error) from error
        return _Started(capture.finish(), ids, self._events())

    def _call(self, tensors):
        """Run the network; return its output by the name of the layer."""
        args, kwargs = self._inputs.arguments(tensors)
        return dict.fromkeys(self._whole, self._module(*args, **kwargs))

    def _events(self):
        """Mark the moment on each GPU when the work that it was given is done."""
        if device_of(self._module).type != "cuda":
            return []
        places = {tensor.device for tensor in tensors_of(self._module)}
        return [torch.cuda.current_stream(p).record_event() for p in places if p.type == "cuda"]

    def _check_output(self, name, tensor, rows, inputs):
        if tensor.is_complex():
            raise ValueError(f"layer {name!r} gives {tensor.dtype}, not real numbers")
        if tensor.ndim == 0 or len(tensor) != rows:
            raise ValueError(
                f"layer {name!r} has output shape {tuple(tensor.shape)} for a batch of {rows} "
                f"examples of shape {_example_shapes(inputs)}; features need one row for each "
                "example on the first axis"
            )
        shape = tuple(tensor.shape[1:])
        seen = self._shapes.get(name, shape)
        if len(seen) == len(shape):
            shape = tuple(a if a == b else None for a, b in zip(seen, shape))
        self._shapes[name] = shape

    def _look(self, name, module, inputs, value):
        """Note the shape of a layer, for the table of layers."""
        if isinstance(value, torch.Tensor) and value.ndim:
            self._shapes.setdefault(name, tuple(value.shape[1:]))

    def _check_pooling(self, name, tensor, pooling, mask):
        """Refuse what a kind of network cannot give."""

    def _check(self, inputs, outputs, names, poolings):
        """See that an example has the same features in another batch."""
        rows = len(next(iter(inputs.values())))
        # Another number: the first axis can be as long by chance. Another order too, and not just
        # turned round: a network that reverses would stand that.
        index = np.array([-1] + [0] * (3 if rows == 3 else 2))
        again = {name: array[index] for name, array in inputs.items()}
        others = _wait(self._run(again, names, poolings, may_stop=False))
        # Sums are rounded in another order, and 16-bit floats have 3 digits or less.
        coarse = self.autocast is not None or dtype_of(self._module).itemsize < 4
        for name, output, other in zip(names, outputs, others):
            scale = np.abs(output[np.isfinite(output)]).max(initial=0)
            bound = (0.1 if coarse else 0.01) * scale
            if other.shape[1:] != output.shape[1:] or not np.allclose(
                output[index], other, rtol=0, atol=bound, equal_nan=True
            ):
                raise ValueError(
                    f"layer {name!r} gives an example other features in another batch; features "
                    "must not depend on the other examples, nor on chance"
                )


def _wait(started):
    for event in started.events:
        event.synchronize()
    check_watched(started.ids)
    return [output.numpy() for output in started.outputs]


def _example_shapes(inputs):
    shapes = {name: array.shape[1:] for name, array in inputs.items()}
    return next(iter(shapes.values())) if len(shapes) == 1 else shapes


def _does_not_fit(inputs, error):
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return ValueError(
        f"data of shape {_example_shapes(inputs)} for one example do not fit the network: {reason}"
    )
