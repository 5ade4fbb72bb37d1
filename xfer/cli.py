"""The command line: what is in a network, and MXNet checkpoints as ONNX files.

Commands import what they need, so that ``xfer --help`` is quick.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xfer._checks import check_integer

if TYPE_CHECKING:
    from xfer.checkpoint.network import Network
    from xfer.checkpoint.onnx_builder import Dims

_PREFIX_HELP = "a checkpoint: what comes before -symbol.json"
_FILE_HELP = "an .onnx file, a saved repurposer, or the folder of a sentence transformer"
_SHAPE_HELP = (
    "shape of one example of an input, such as data=3,224,224; by default it is inferred from the "
    "parameters where that is possible"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default that of the process; return 0, or 1 after printing an error."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"xfer: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    description = "Show what is in a pre-trained network, and convert MXNet checkpoints to ONNX."
    parser = argparse.ArgumentParser("xfer", description=description)
    commands = parser.add_subparsers(title="commands", required=True)
    layers = commands.add_parser("layers", help="print a network's layers as a table")
    layers.add_argument("prefix", help=f"{_PREFIX_HELP}; or {_FILE_HELP}")
    layers.add_argument("epoch", nargs="?", type=int, help="by default the last one in the folder")
    layers.set_defaults(run=_layers)
    convert = commands.add_parser("convert", help="write a checkpoint as an .onnx file")
    convert.add_argument("prefix", help=_PREFIX_HELP)
    convert.add_argument("epoch", type=int, help="the epoch in PREFIX-0000.params")
    convert.add_argument("out", type=Path, metavar="OUT.onnx", help="the file to write")
    layer_help = "cut the network at this layer; can be repeated; by default all of it is written"
    convert.add_argument("--layer", action="append", metavar="NAME", help=layer_help)
    batch_help = "the batch size, for a network written for a fixed one; by default it is free"
    convert.add_argument("--batch", type=int, metavar="N", help=batch_help)
    convert.set_defaults(run=_convert)
    for command in (layers, convert):
        command.add_argument(
            "--shape", action="append", default=[], metavar="INPUT=SIZES", help=_SHAPE_HELP
        )
    return parser


def _layers(options: argparse.Namespace) -> None:
    from xfer.checkpoint.network import Network
    from xfer.persistence import load
    from xfer.sources import open_source
    from xfer.sources.checkpoint import CheckpointSource

    prefix, epoch, path = options.prefix, options.epoch, Path(options.prefix)
    if named := re.fullmatch(r"(.+)-(\d{4,})\.params", prefix):
        prefix, epoch = named[1], int(named[2])
    elif _is_one_file(path):
        if epoch is not None or options.shape:
            raise ValueError(f"{path} takes neither an epoch nor --shape: give only its path")
        print(load(path).features_.source_ if path.suffix == ".xfer" else open_source(path))
        return
    network = Network.from_files(prefix, _last_epoch(prefix) if epoch is None else epoch)
    shapes, message = _shapes(network, options.shape)
    print(f"{CheckpointSource(network, data_shapes=shapes)}\n{message}")


def _convert(options: argparse.Namespace) -> None:
    from xfer.checkpoint.network import Network
    from xfer.sources.checkpoint import CheckpointSource

    network = Network.from_files(options.prefix, options.epoch)
    shapes, message = _shapes(network, options.shape, options.batch)
    layers = CheckpointSource(network).find_layers(options.layer) if options.layer else ()
    outputs = network.export(options.out, shapes, [layer.name for layer in layers])
    print(f"{message}\nWrote {options.out} with output {', '.join(outputs)}.")


def _is_one_file(path: Path) -> bool:
    """Return whether a path is not a checkpoint's prefix; refuse a folder of checkpoints."""
    if path.name.endswith("-symbol.json") or Path(f"{path}-symbol.json").is_file():
        return False
    if path.is_dir() and not (path / "modules.json").is_file():
        found = [str(one).removesuffix("-symbol.json") for one in path.glob("*-symbol.json")]
        inside = f"name a checkpoint in it: {', '.join(sorted(found)[:8])}"
        raise ValueError(f"{path} is a folder{'; ' + inside if found else ' without a checkpoint'}")
    return path.suffix in (".onnx", ".xfer") or path.exists()


def _last_epoch(prefix: str) -> int:
    path = Path(prefix.removesuffix("-symbol.json"))
    pattern = re.escape(path.name) + r"-(\d{4,})\.params"
    found = [re.fullmatch(pattern, file.name) for file in path.parent.glob("*.params")]
    return max((int(match[1]) for match in found if match), default=0)


def _shapes(
    network: Network, given: Sequence[str], batch: int | None = None
) -> tuple[Mapping[str, Dims], str]:
    """Return the shapes of the inputs as far as they are known, and a sentence about them."""
    from xfer.checkpoint.data_shape import guess_sizes
    from xfer.checkpoint.onnx_builder import BATCH, describe_shape

    shapes = dict(network.data_shapes)
    for text in given:
        match = re.fullmatch(r"(.+)=\(?(\d+(?:,\d+)*)?,?\)?", text.replace(" ", ""))
        if not match or match[1] not in network.input_names:
            known, like = ", ".join(network.input_names), f"{network.input_names[0]}=3,224,224"
            raise ValueError(f"--shape {text} must be like {like}; the inputs are {known}")
        # An input with one number for each example, such as a length, has no sizes.
        shapes[match[1]] = (BATCH, *map(int, match[2].split(",") if match[2] else ()))
    ending = "."
    if any(None in shape for shape in shapes.values()):
        guessed = guess_sizes(network, shapes)
        ending = "; ? is an unknown size: give it with --shape."
        if guessed:
            shapes = guessed
            ending = ", a usual size that fits the parameters; --shape sets another."
    if batch is not None:
        check_integer("--batch", batch)
        shapes = {name: (batch, *dims[1:]) for name, dims in shapes.items()}
    inputs = [f"{name} {describe_shape(shapes.get(name))}" for name in network.input_names]
    return shapes, f"Input {', '.join(inputs)} for {batch or 'n'} examples{ending}"
