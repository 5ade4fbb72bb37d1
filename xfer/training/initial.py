"""Initial values of parameters that start at random."""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.random import RandomState

from xfer.checkpoint.initial import initial_values
from xfer.sources.torch import TorchSource
from xfer.training.network import Network


def start_at_random(
    network: Network, source: Any, layer_names: Sequence[str], random: RandomState
) -> None:
    """Give layers new parameters, sampled as for a new network."""
    if not layer_names:
        return
    if isinstance(source, TorchSource):
        with torch.random.fork_rng([]):
            torch.manual_seed(random.randint(1 << 31))
            for name in layer_names:
                layer = network.body.get_submodule(name)
                if source.parameters_of(name) and not layer.state_dict():
                    reason = "gets its parameters from a graph: train the network it was made of"
                    raise ValueError(f"{name!r} in random_layers {reason}")
                _reset(name, layer)
        return
    state = network.body.state_dict()
    for name in dict.fromkeys(n for layer in layer_names for n in source.parameters_of(layer)):
        if name in state:
            values = initial_values(source.role_of(name), tuple(state[name].shape), random)
            state[name].copy_(torch.from_numpy(values))


def _reset(name: str, layer: torch.nn.Module) -> None:
    for inner, module in layer.named_modules(prefix=name):
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if own and not hasattr(module, "reset_parameters"):
            kind = type(module).__name__
            raise ValueError(
                f"{inner!r} in random_layers, of class {kind}, has no method reset_parameters"
            )
        if own:
            module.reset_parameters()
