"""MXNet checkpoints without MXNet: their bytes, their graphs, and their conversion."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

from xfer.checkpoint.params import read_params, split_params, write_params
from xfer.checkpoint.symbol import MxGraph

if TYPE_CHECKING:
    import torch

__all__ = ["MxGraph", "read_params", "split_params", "to_torch", "write_params"]


def to_torch(
    prefix: str | PathLike[str],
    epoch: int = 0,
    *,
    layer_names: str | Sequence[str] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> "torch.fx.GraphModule":
    """Return a checkpoint as a PyTorch module, with parameters and layers under their own names.

    Parameters
    ----------
    prefix : str or path-like
        What comes before ``-symbol.json`` in the name of the file with the graph.
    epoch : int, default=0
        The epoch in ``-0000.params``.
    layer_names : str or list of str, optional
        The layers to return instead of the network's own outputs.
    shapes : dict of str to sequence of int, optional
        Shapes of one example by input. By default they are inferred from the parameters as far as
        possible; few operators need them.

    Returns
    -------
    torch.fx.GraphModule
        See :meth:`xfer.sources.onnx.OnnxSource.to_torch`.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        If there is no such checkpoint or layer, an operator has no counterpart in PyTorch, a shape
        is missing, or PyTorch is not installed.
    """
    from xfer.checkpoint.data_shape import guess_sizes
    from xfer.checkpoint.network import Network
    from xfer.checkpoint.onnx_builder import BATCH

    network = Network.from_files(prefix, epoch)
    given = {name: (BATCH, *sizes) for name, sizes in (shapes or {}).items()}
    known = {**network.data_shapes, **given}
    return network.to_torch(network.typed(guess_sizes(network, known) or known), layer_names)
