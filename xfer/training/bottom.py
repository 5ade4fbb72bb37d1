"""The fixed part of a network, computed once and not in every step."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import numpy as np
import torch

from xfer.sources.torch import tensors_in
from xfer.training.network import Network, in_prediction

_MOST_TRIES = 20


class _Stop(BaseException):
    """Ends a pass; a BaseException, so that no network takes it for an error of its own."""


class Bottom:
    """The output of the fixed part of a network, which can be given instead of computed.

    A batch shows where that part ends: at the last module whose output no gradient reaches, before
    anything that is trained. Its output is then put in its place, and the modules before it are not
    run. They return NaN instead, which shows in the scores where it is used after all; an earlier
    end is tried then. If none is found, `last` is None.
    """

    def __init__(self, network: Network, batch: Mapping[str, np.ndarray]) -> None:
        self._network = network
        self._found: list[tuple[torch.nn.Module, torch.Tensor]] = []
        self._rows: Any = None
        ends = self._ends(batch)
        below = ends[: next((i for i, (_, _, trained) in enumerate(ends) if trained), len(ends))]
        for module, *_ in below:
            module.eval()  # dropout of the fixed part, too
        calls = [module for module, *_ in ends]
        once = [(m, output) for m, output, _ in below if output is not None and calls.count(m) == 1]
        with in_prediction(network):
            expected = network.score(batch)
            # The outputs seen were computed with dropout, so they are computed again.
            for n in range(len(once), max(len(once) - _MOST_TRIES, 0), -1):
                self._found = once[:n]
                self.put(self.compute([batch]))
                is_same = torch.allclose(network.score(batch), expected, rtol=1e-4, atol=1e-5)
                self.remove()
                if is_same:
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

    def _ends(self, batch: Mapping[str, np.ndarray]) -> list[Any]:
        """Run a batch; return each module that ends, its output, and whether that is trained."""
        ends: list[Any] = []
        n = len(next(iter(batch.values())))

        def note(module: torch.nn.Module, inputs: Any, value: Any) -> None:
            trained = any(tensor.requires_grad for _, tensor in tensors_in(value))
            has_rows = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == n
            ends.append((module, value if has_rows and not trained else None, trained))

        with ExitStack() as hooks, torch.enable_grad():
            for module in self._network.body.modules():
                hooks.callback(module.register_forward_hook(note).remove)
            self._network.score(batch)
        return ends

    def compute(self, batches: Iterable[Mapping[str, np.ndarray]]) -> torch.Tensor:
        """Compute the output of the fixed part, of shape (n, ...)."""
        rows: list[torch.Tensor] = []

        def keep(module: torch.nn.Module, inputs: Any, value: torch.Tensor) -> None:
            rows.append(value.cpu())
            raise _Stop

        assert self.last is not None
        self.remove()
        handle = self.last.register_forward_hook(keep)
        try:
            with in_prediction(self._network):
                for batch in batches:
                    with suppress(_Stop):
                        self._network.score(batch)
        finally:
            handle.remove()
        return torch.cat(rows)

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


def _given(value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return value
