"""MXNet checkpoints as ``.onnx`` files."""

import onnx

from xfer._files import written_whole
from xfer.checkpoint.convert import convert, output_names
from xfer.checkpoint.onnx_graph import UnknownShape


def export(network, path, shapes, layer_names=None):
    """Write a network as an ``.onnx`` file, whole or cut at layers.

    Parameters
    ----------
    network : Network
    path : pathlib.Path
    shapes : dict of str to tuple of (int or None)
        Shapes of batches, with ``BATCH`` as the number of examples; None is any size.
    layer_names : list of str, optional
        The layers that become the outputs; by default those of the network.

    Returns
    -------
    list of str
        The names of the outputs.

    Raises
    ------
    ValueError
        If an operator has no conversion, shapes do not fit or are needed
        and not known, or the parameters are more than 2 GB.
    """
    graph = network.graph
    names = layer_names or [
        output_names(graph.nodes[number])[place] for number, place in graph.heads
    ]
    pruned = network.prune(layer_names) if layer_names else graph.prune(graph.heads)
    try:
        made, values = convert(pruned, network.parameters, network.typed(shapes))
    except UnknownShape as error:
        raise UnknownShape(f"{error}: give the sizes of one example") from None
    for name, head in zip(names, pruned.heads):
        made.add_output(name, values[head])
    model = made.to_model()
    onnx.checker.check_model(model, full_check=True)
    with written_whole(path) as file:
        file.write(model.SerializeToString())
    return names
