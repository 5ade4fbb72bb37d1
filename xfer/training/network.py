"""The network that is trained: up to one layer, with a new last layer that gives scores."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from xfer.sources.base import Layer, SourceModel, examples_first
from xfer.sources.data import to_numpy
from xfer.sources.onnx import OnnxSource
from xfer.sources.table import pool, with_axis
from xfer.sources.torch import TorchSource, copied


class Network(torch.nn.Module):
    """A copy of a source's network up to a layer, and a linear layer on its pooled output."""

    def __init__(
        self, source: SourceModel, layer: Layer, pooling: str, coef: np.ndarray, intercept: Any
    ) -> None:
        super().__init__()
        self.layer, self._pooling = layer, pooling
        self.source: Any = source
        if isinstance(source, TorchSource):
            self.body = copied(source.module)
            if not all(one.is_leaf for one in self.body.parameters()):
                kind = type(source.module).__name__
                raise ValueError(f"a {kind} cannot be trained: train the module it was made of")
            self.source = source.with_module(self.body)
        elif isinstance(source, OnnxSource):
            self.body = source.to_torch([layer.name])
        # Not initialised, which would take numbers from the global generator.
        self.scores = torch.nn.utils.skip_init(torch.nn.Linear, coef.shape[1], len(coef))
        with torch.no_grad():
            self.scores.weight.copy_(torch.from_numpy(np.asarray(coef)))
            self.scores.bias.copy_(torch.from_numpy(np.asarray(intercept)))

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take what the network takes, as tensors; return scores of shape (n, n_classes)."""
        if isinstance(self.source, TorchSource):
            names = self.source.input_names
            output = self.source.run_to(self.body, self.layer.name, args, kwargs)
        else:
            names = self.body.meta["input_names"]
            output = self.body(*args, **kwargs)
        inputs = {**dict(zip(names, args)), **kwargs}
        for value in [*inputs.values()]:  # one input of a SentenceTransformer is a dict
            inputs.update(value if isinstance(value, Mapping) else {})
        tensors = {name: one for name, one in inputs.items() if isinstance(one, torch.Tensor)}
        mask = tensors.get("attention_mask")
        if mask is None:
            mask = self.source._mask(tensors, [self._pooling])
        return self._scores_of(output, mask)

    def score(self, inputs: Mapping[str, np.ndarray]) -> torch.Tensor:
        """Return the scores of a batch of arrays, of shape (n, n_classes)."""
        if isinstance(self.source, TorchSource):
            output = self.source.run(inputs, self.layer.name)
        else:
            tensors = self.source.torch_inputs(inputs, self.body.meta["input_names"])
            output = self.body(*(one.to(self.scores.weight.device) for one in tensors))
            output = examples_first(output, *self.source.place_of(inputs, self.layer.name))
        mask = self.source._mask(inputs, [self._pooling])
        return self._scores_of(output, None if mask is None else torch.from_numpy(mask))

    def _scores_of(self, output: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        name, shape = self.layer.name, tuple(output.shape)
        pooling = with_axis(self._pooling, name, shape, self.source._channels)
        mask = None if mask is None else mask.to(output.device)
        features = pool(output, pooling, name, mask).flatten(1)
        return self.scores(features.to(self.scores.weight.dtype))

    def arrange(self, order: torch.memory_format) -> None:
        """Change the order in memory of the parameters of convolutions.

        With channels last, a step of a ResNet-20 alone took 0.7 to 0.85 of the time. A module of
        the user's own may need the usual order, such as for `view`.
        """
        for one in () if isinstance(self.source, TorchSource) else self.body.parameters():
            if one.ndim == 4:
                one.data = one.data.contiguous(memory_format=order)

    def trained_source(self) -> SourceModel:
        """Return the network with its present parameters as a source of features."""
        if isinstance(self.source, TorchSource):
            return self.source
        state, places = self.body.state_dict(), self.body.meta["places"]
        return self.source.with_arrays({n: to_numpy(state[at]) for n, at in places.items()})

    def places_of(self, names: Iterable[str]) -> set[str]:
        """Return the names in the body of parameters that the source names."""
        if not isinstance(self.source, TorchSource):
            places = self.body.meta["places"]
            return {places[name] for name in names if name in places}
        # What has several names goes by the first, as in named_parameters.
        first: dict[int, str] = {}
        state = self.body.state_dict(keep_vars=True)
        places = {name: first.setdefault(id(one), name) for name, one in state.items()}
        return {places[name] for name in names if name in places}

    def word_tables(self) -> list[torch.nn.Parameter]:
        """Return the embedding tables; none of a transformer, where rows are learned otherwise."""
        if self.is_transformer():
            return []
        found = [one.weight for one in self.body.modules() if isinstance(one, torch.nn.Embedding)]
        if isinstance(self.body, torch.fx.GraphModule):
            found = [
                read[0]
                for module, read in readers(self.body)
                if module._get_name() == "Gather" and read and read[0].ndim == 2
            ]
        return [one for one in found if one.requires_grad]

    def is_transformer(self) -> bool:
        """Return whether layers are normalised as in transformers."""
        names = [module._get_name() for module in self.body.modules()]
        return any("LayerNorm" in name or "RMSNorm" in name for name in names)

    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights and intercepts of the scores."""
        return to_numpy(self.scores.weight), to_numpy(self.scores.bias)


def fix(network: Network, names: Collection[str]) -> None:
    """Train all parameters but some, in training mode; normalise fixed layers as in prediction."""
    for name, parameter in network.body.named_parameters():
        if name in names:
            parameter.requires_grad_(False)
    network.train()
    for module, parameters in readers(network.body):
        if parameters and not any(one.requires_grad for one in parameters):
            module.eval()
    for name, module in network.body.named_modules():
        statistics = {f"{name}.{one}" for one, _ in module.named_buffers()}
        if statistics and statistics <= {*names} and not [*module.parameters()]:
            module.eval()


def readers(body: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, list[Any]]]:
    """Yield modules, each with the parameters that it reads."""
    if not isinstance(body, torch.fx.GraphModule):
        for module in body.modules():
            yield module, list(module.parameters())
        return
    known = dict(body.named_parameters())
    for node in body.graph.nodes:
        if node.op == "call_module":
            names = [one.target for one in node.all_input_nodes if one.op == "get_attr"]
            yield body.get_submodule(node.target), [known[n] for n in names if n in known]


@contextmanager
def in_prediction(network: torch.nn.Module) -> Iterator[None]:
    """Set a network to inference mode without gradients, and put it back after."""
    training = [module for module in network.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
