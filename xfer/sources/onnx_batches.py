"""Batches of ONNX models, and that no features mix the examples of one."""

import numpy as np

from xfer.sources.batches import check_ids
from xfer.sources.onnx_session import open_session, reason_of


class BatchRunner:
    """Computes batches with a session for some layers, and sees that no features mix examples.

    Parameters
    ----------
    graph : OnnxModel
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
        check_ids(inputs, self.id_limits)
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
                f"{reason_of(error)}{foreign and f'; it has none of {foreign}'}"
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
                f"data of shape {examples} for one example do not fit the network: "
                f"{reason_of(error)}"
            ) from error
        for name, output in zip(self.names, outputs):
            shape = np.shape(output)
            if not shape or shape[0] != rows:
                raise ValueError(
                    f"layer {name!r} has output shape {shape} for a batch of {rows} examples of "
                    f"shape {examples}; features need one row for each example on the first axis"
                )
        return outputs


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
