"""MXNet networks run by ONNX Runtime."""

from collections import OrderedDict
from contextlib import suppress

from xfer.checkpoint.convert import convert
from xfer.checkpoint.onnx_graph import BATCH, describe
from xfer.checkpoint.operators import Unsupported
from xfer.sources.onnx_session import open_session, reason_of

_MOST_SESSIONS = 8


class OnnxEngine:
    """Runs a network, cut at the layers asked for, without MXNet.

    Parameters
    ----------
    network : Network
    data_types : dict of str to numpy.dtype
        What each input is computed with.
    """

    def __init__(self, network, data_types):
        self._network = network
        self._data_types = data_types
        self._sessions = OrderedDict()

    def __getstate__(self):
        # Sessions cannot travel to another process; they are opened again there.
        return {**self.__dict__, "_sessions": OrderedDict()}

    def run(self, inputs, layer_names):
        """Compute one batch.

        Parameters
        ----------
        inputs : dict of str to ndarray of shape (rows, ...)
        layer_names : tuple of str

        Returns
        -------
        list of ndarray of shape (rows, ...)
            One for each layer.

        Raises
        ------
        Unsupported
            If an operator has no conversion.
        ValueError
            If the data do not fit the network, or a layer mixes examples.
        """
        session = self._session(layer_names, {name: array.shape for name, array in inputs.items()})
        needed = [entry.name for entry in session.get_inputs()]
        data = {name: inputs[name].astype(self._data_types[name], copy=False) for name in needed}
        try:
            return session.run(None, data)
        except Exception as error:  # ONNX Runtime has no one class for them
            raise ValueError(f"ONNX Runtime failed: {reason_of(error)}") from error

    def takes_any_number(self, inputs, layer_names):
        """Tell whether these layers, which have been run, take batches of other numbers too."""
        return _key(layer_names, {n: array.shape for n, array in inputs.items()}) in self._sessions

    def _session(self, names, shapes):
        rows = next(iter(shapes.values()))[0]
        free = _key(names, shapes)
        key = free if free in self._sessions else (*free, rows)
        if key not in self._sessions:
            made, batch = self._convert(names, shapes, rows)
            key = free if batch == BATCH else (*free, rows)
            self._sessions[key] = open_session(*made.finish())
            if len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(key)
        return self._sessions[key]

    def _convert(self, names, shapes, rows):
        """Convert for any number of examples, or for this one where the graph asks for that."""
        examples = {name: shape[1:] for name, shape in shapes.items()}
        examples = next(iter(examples.values())) if len(examples) == 1 else examples
        batch = BATCH
        try:
            made, outputs = self._try(names, shapes, BATCH)
        except Unsupported:
            raise
        except ValueError:
            batch = rows
            try:
                made, outputs = self._try(names, shapes, rows)
            except ValueError as error:
                raise ValueError(
                    f"data of shape {examples} for one example do not fit the network: {error}"
                ) from error
        self._check_rows(names, outputs, batch, examples)
        if batch != BATCH:
            # Their number may be the batch's by chance: with another it has to change likewise.
            more = None
            with suppress(ValueError):
                _, more = self._try(names, shapes, rows + 1)
            if more is not None:
                self._check_rows(names, more, rows + 1, examples)
        for name, tensor in zip(names, outputs):
            made.add_output(name, tensor)
        return made, batch

    def _try(self, names, shapes, rows):
        graph = self._network.prune(names)
        inputs = {n: (self._data_types[n], (rows, *shape[1:])) for n, shape in shapes.items()}
        made, values = convert(graph, self._network.parameters, inputs)
        return made, [values[head] for head in graph.heads]

    @staticmethod
    def _check_rows(names, outputs, rows, examples):
        for name, tensor in zip(names, outputs):
            if tensor.dims is not None and tensor.dims[:1] not in ((rows,), (None,)):
                number = "n" if rows == BATCH else rows
                raise ValueError(
                    f"layer {name!r} has output shape {describe(tensor.dims)} for a batch of "
                    f"{number} examples of shape {examples}; features need one row for each "
                    "example on the first axis"
                )


def _key(names, shapes):
    return names, tuple(sorted((name, shape[1:]) for name, shape in shapes.items()))
