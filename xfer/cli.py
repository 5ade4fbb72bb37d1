"""The command line: what is in a network, and MXNet checkpoints as ONNX files."""

import argparse
import re
import sys
from pathlib import Path

_DESCRIPTION = "Look into pre-trained networks, and convert MXNet checkpoints to ONNX."
_SHAPE_HELP = (
    "shape of one example of an input, such as data=3,224,224; by default it is told from the "
    "parameters, or guessed"
)


def main(arguments=None):
    """Run a command.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of the process.

    Returns
    -------
    int
        0, or 1 after an error, which is printed in one line.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"xfer: {error}", file=sys.stderr)
        return 1
    return 0


def _parser():
    parser = argparse.ArgumentParser("xfer", description=_DESCRIPTION)
    commands = parser.add_subparsers(title="commands", required=True)
    layers = commands.add_parser("layers", help="print the table of a network's layers")
    layers.add_argument("prefix", help="of a checkpoint (PREFIX-symbol.json), or an .onnx file")
    layers.add_argument("epoch", nargs="?", type=int, help="by default the last that there is")
    layers.set_defaults(run=_layers)
    convert = commands.add_parser("convert", help="write a checkpoint as an .onnx file")
    convert.add_argument("prefix", help="of a checkpoint (PREFIX-symbol.json)")
    convert.add_argument("epoch", type=int, help="the number in PREFIX-0000.params")
    convert.add_argument("out", type=Path, metavar="OUT.onnx", help="the file to write")
    convert.add_argument(
        "--layer",
        action="append",
        metavar="NAME",
        help="cut the network here; may be given again; by default it is written whole",
    )
    convert.set_defaults(run=_convert)
    for command in (layers, convert):
        command.add_argument(
            "--shape", action="append", default=[], metavar="INPUT=SIZES", help=_SHAPE_HELP
        )
    return parser


def _layers(options):
    from xfer.sources import open_source

    if options.prefix.endswith(".onnx"):
        if options.epoch is not None or options.shape:
            raise ValueError("an .onnx file has no epochs, and tells its shapes itself")
        print(open_source(options.prefix))
        return
    from xfer.sources.checkpoint import CheckpointSource

    network = _read(options.prefix, options.epoch)
    shapes, words = _shapes(network, options.shape)
    print(CheckpointSource(network, data_shapes=shapes))
    print(words)


def _convert(options):
    from xfer.checkpoint.export import export
    from xfer.sources.checkpoint import CheckpointSource

    network = _read(options.prefix, options.epoch)
    shapes, words = _shapes(network, options.shape)
    layers = CheckpointSource(network).find_layers(options.layer) if options.layer else ()
    outputs = export(network, options.out, shapes, [layer.name for layer in layers])
    print(f"{words}\nWrote {options.out} with {', '.join(outputs)}.")


def _read(prefix, epoch):
    from xfer.checkpoint.network import Network

    prefix = prefix.removesuffix("-symbol.json")
    if epoch is None:
        folder, name = Path(prefix).parent, Path(prefix).name
        pattern = re.escape(name) + r"-(\d{4,})\.params"
        found = [re.fullmatch(pattern, path.name) for path in folder.glob("*.params")]
        epoch = max((int(match[1]) for match in found if match), default=0)
    return Network.of_files(prefix, epoch)


def _shapes(network, given):
    """Return the inputs' shapes, as far as they are known, and a sentence about them."""
    from xfer.checkpoint.data_shape import guess_sizes
    from xfer.checkpoint.onnx_graph import BATCH, describe

    shapes = dict(network.data_shapes)
    for text in given:
        match = re.fullmatch(r"(.+)=\(?(\d+(?:,\d+)*)?,?\)?", text.replace(" ", ""))
        if not match or match[1] not in network.input_names:
            raise ValueError(
                f"--shape {text} must be like {network.input_names[0]}=3,224,224; the inputs are "
                f"{', '.join(network.input_names)}"
            )
        # One number for each example, as a length is, has no sizes.
        shapes[match[1]] = (BATCH, *map(int, match[2].split(",") if match[2] else ()))
    words = "."
    if any(None in shape for shape in shapes.values()):
        sizes = guess_sizes(network, shapes)
        words = "; ? is any size, and --shape gives one."
        if sizes:
            shapes = sizes
            words = ", the usual size that the parameters fit; --shape gives another."
    told = [f"{name} {describe(shapes.get(name))}" for name in network.input_names]
    return shapes, f"Input {', '.join(told)} for n examples{words}"
