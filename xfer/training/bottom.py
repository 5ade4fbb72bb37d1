"""The fixed part of a network, computed once and not in every step."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch

from xfer.sources.data import count
from xfer.sources.torch_flow import tensors_in
from xfer.training.network import Network, in_prediction

_MOST_TRIES = 20


class Bottom:
    """The output of the fixed part of a network, which can be given instead of computed.

    A batch shows where that part may end: at the last module whose output no gradient reaches,
    before anything that is trained. Its output is then put in its place, and the modules before it
    are not run. They return NaN instead, which shows in the scores where it is used after all; an
    earlier end is tried then. If none is found, `last` is None.
    """

    def __init__(self, network: Network, batch: dict[str, np.ndarray]) -> None:
        self._network = network
        self._found: list[tuple[torch.nn.Module, torch.Tensor]] = []
        self._rows: Any = None
        statistics = [(buffer, buffer.clone()) for buffer in network.body.buffers()]
        ends = self._ends(batch)
        for buffer, before in statistics:
            buffer.copy_(before)
        below = ends[: next((i for i, (_, _, trained) in enumerate(ends) if trained), len(ends))]
        for module, *_ in below:
            module.eval()  # dropout of the fixed part, too
        calls = [module for module, *_ in ends]
        once = [(m, output) for m, output, _ in below if output is not None and calls.count(m) == 1]
        for n in range(len(once), max(len(once) - _MOST_TRIES, 0), -1):
            self._found = once[:n]
            if self.compute(partial(_parts, batch), count(batch)) is not None:
                break
            self._found = []

    @property
    def last(self) -> torch.nn.Module | None:
        """The module at the end of the fixed part."""
        return self._found[-1][0] if self._found else None

    @property
    def bytes_per_example(self) -> int:
        """The size of what is kept of one example."""
        return self._found[-1][1][:1].nbytes

    def _ends(self, batch: dict[str, np.ndarray]) -> list[Any]:
        """Run a batch; return each module that ends, its output, and whether that is trained."""
        ends: list[Any] = []
        n = count(batch)

        def note(module: torch.nn.Module, inputs: Any, value: Any) -> None:
            trained = any(tensor.requires_grad for _, tensor in tensors_in(value))
            has_rows = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == n
            ends.append((module, value if has_rows and not trained else None, trained))

        with ExitStack() as hooks, torch.enable_grad():
            for module in self._network.body.modules():
                hooks.callback(module.register_forward_hook(note).remove)
            self._network.score(batch)
        return ends

    def compute(
        self, batches: Callable[[int], Iterable[dict[str, np.ndarray]]], size: int
    ) -> torch.Tensor | None:
        """Compute the output of the fixed part, of shape (n, ...), from batches of a size.

        Return None if the scores of batches of another size are others when it is given. One batch
        cannot show that rows are examples and not time steps, or that integers depend on what is
        left out.
        """
        rows: list[torch.Tensor] = []
        assert self.last is not None
        self.remove()
        handle = self.last.register_forward_hook(lambda module, _, value: rows.append(value.cpu()))
        with in_prediction(self._network):
            try:
                expected = torch.cat([self._network.score(batch) for batch in batches(size)])
            finally:
                handle.remove()
            outputs, start = torch.cat(rows), 0
            try:
                for batch in batches(max(size - 1, 1)):
                    these = slice(start, start := start + count(batch))
                    self.put(outputs[these])
                    scores = self._network.score(batch)
                    if not torch.allclose(scores, expected[these], rtol=1e-4, atol=1e-5):
                        return None
            except Exception:  # what a network says of other shapes
                return None
            finally:
                self.remove()
        return outputs if start == len(outputs) else None

    def put(self, rows: torch.Tensor) -> None:
        """Give the output for the next batch."""
        self._rows = rows.to(self._network.scores.weight.device)
        for module, output in self._found[:-1]:
            value = torch.nan if output.is_floating_point() else 0
            nothing = torch.full((), value, dtype=output.dtype, device=output.device)
            expanded = nothing.expand(len(rows), *output.shape[1:])
            vars(module)["forward"] = partial(_given, expanded)
        vars(self._found[-1][0])["forward"] = partial(_given, self._rows)

    def remove(self) -> None:
        """Let the modules compute again."""
        for module, _ in self._found:
            vars(module).pop("forward", None)


def _parts(batch: dict[str, np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, count(batch), size):
        yield {name: array[start : start + size] for name, array in batch.items()}


def _given(value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return value
