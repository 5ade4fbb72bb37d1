"""A network bound for training on MXNet."""

import json
from contextlib import contextmanager
from dataclasses import replace

import mxnet as mx
import numpy as np

from xfer.checkpoint.symbol import Graph
from xfer.sources.mxnet_binding import quiet_binding
from xfer.sources.mxnet_graph import load_graph


def check_optimizer(name, params):
    """Refuse an optimizer that MXNet does not know, or not with such parameters.

    Parameters
    ----------
    name : str
    params : dict

    Raises
    ------
    ValueError
    """
    known = mx.optimizer.Optimizer.opt_registry
    if not isinstance(name, str) or name.lower() not in known:
        raise ValueError(f"optimizer must be one of {', '.join(sorted(known))}, got {name!r}")
    try:
        mx.optimizer.create(name, **params)
    except TypeError as error:
        raise ValueError(f"optimizer_params do not suit {name!r}: {error}") from error


class TrainingModule:
    """Learns the parameters of a network step by step, from gradients of its scores.

    Parameters
    ----------
    network : Network
        With one output, the scores.
    shapes : dict of str to tuple
        Shape of a batch of each input.
    contexts : list of mxnet.Context, optional
        The devices that share each batch; by default the first CPU.
    fixed : collection of str
        Parameters that stay as they are.
    rates : dict of str to float
        What the learning rate of some parameters is multiplied by.
    optimizer : str
        As MXNet knows it.
    optimizer_params : dict
        With a ``learning_rate``.
    rate : callable
        Tells the learning rate of each step, counted from 0.
    """

    def __init__(
        self, network, shapes, *, contexts=None, fixed, rates, optimizer, optimizer_params, rate
    ):
        self._network = network
        self._rows = next(iter(shapes.values()))[0]
        graph = _with_rates(network.graph, rates)
        self._module = mx.mod.Module(
            load_graph(json.loads(graph.to_json())),
            data_names=list(shapes),
            label_names=None,
            context=contexts or [mx.cpu()],
            fixed_param_names=[name for name in network.arguments if name in fixed],
        )
        types = network.data_types
        with quiet_binding():
            self._module.bind(
                [mx.io.DataDesc(name, shape, types[name]) for name, shape in shapes.items()],
                for_training=True,
            )
        self._module.init_params(
            initializer=None,
            arg_params={name: mx.nd.array(array) for name, array in network.arguments.items()},
            aux_params={name: mx.nd.array(array) for name, array in network.statistics.items()},
        )
        schedule = _Schedule(optimizer_params["learning_rate"], rate)
        self._module.init_optimizer(
            optimizer=optimizer, optimizer_params={**optimizer_params, "lr_scheduler": schedule}
        )

    def step(self, inputs, gradient):
        """Learn from one batch.

        Parameters
        ----------
        inputs : dict of str to ndarray of shape (rows, ...)
        gradient : callable
            Gets the scores, of shape (rows, n_classes), and returns the gradient of the loss of
            each example by its scores.
        """
        self._module.forward(_batch(inputs), is_train=True)
        found = gradient(self._module.get_outputs()[0].asnumpy())
        self._module.backward([mx.nd.array(found)])
        self._module.update()

    def scores(self, inputs):
        """Compute scores as in inference.

        Parameters
        ----------
        inputs : dict of str to ndarray of shape (n, ...)

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        count, found = len(next(iter(inputs.values()))), []
        for start in range(0, count, self._rows):
            index = np.minimum(np.arange(start, start + self._rows), count - 1)
            batch = {name: array[index] for name, array in inputs.items()}
            self._module.forward(_batch(batch), is_train=False)
            found.append(self._module.get_outputs()[0].asnumpy())
        return np.concatenate(found)[:count]

    def network(self):
        """Return the network with the parameters as they are by now (Network).

        Raises
        ------
        FloatingPointError
            If one is NaN or infinite.
        """
        # Reading the statistics of a batch norm does not wait for the step that still writes them.
        mx.nd.waitall()
        arguments, statistics = (
            {name: array.asnumpy() for name, array in values.items()}
            for values in self._module.get_params()
        )
        for name, array in {**arguments, **statistics}.items():
            if not np.isfinite(array).all():
                raise FloatingPointError(f"the parameter {name!r} is NaN or infinite")
        return replace(self._network, arguments=arguments, statistics=statistics)


class _Schedule(mx.lr_scheduler.LRScheduler):
    def __init__(self, first, rate):
        super().__init__(base_lr=first)
        self.rate = rate

    def __call__(self, update):
        return self.rate(update - 1)


@contextmanager
def seeded(seed):
    """Seed MXNet's generator, which dropout draws from, and afterwards let it go on elsewhere.

    Parameters
    ----------
    seed : int
    """
    after = int(mx.nd.random.randint(0, (1 << 31) - 1, shape=(1,), dtype="int32").asscalar())
    mx.random.seed(seed)
    try:
        yield
    finally:
        mx.random.seed(after)


def _batch(inputs):
    return mx.io.DataBatch([mx.nd.array(array) for array in inputs.values()])


def _with_rates(graph, rates):
    """Write learning rates where MXNet's optimizers look for them."""
    nodes = tuple(
        replace(node, training={**node.training, "__lr_mult__": str(rates[node.name])})
        if node.is_variable and node.name in rates
        else node
        for node in graph.nodes
    )
    return Graph(nodes, graph.heads)
