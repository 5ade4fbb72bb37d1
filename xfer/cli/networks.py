"""What is in a network, and checkpoints as ONNX or PyTorch files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xfer._checks import check_integer
from xfer._io import atomic_write

if TYPE_CHECKING:
    import torch

    from xfer.checkpoint.network import Network
    from xfer.checkpoint.onnx_builder import Dims

PREFIX_HELP = "a checkpoint: what comes before -symbol.json"
_FILE_HELP = "an .onnx file, a saved repurposer, or the folder of a sentence transformer"
_SHAPE_HELP = (
    "shape of one example of an input, such as data=3,224,224; by default it is inferred from the "
    "parameters where that is possible"
)


def add_commands(commands: Any) -> None:
    """Add ``layers`` and ``convert``."""
    layers = commands.add_parser("layers", help="print a network's layers as a table")
    layers.add_argument("prefix", metavar="SOURCE", help=f"{PREFIX_HELP}; or {_FILE_HELP}")
    layers.add_argument("epoch", nargs="?", type=int, help="by default the last one in the folder")
    layers.set_defaults(run=_layers)
    convert = commands.add_parser("convert", help="write a network for ONNX or PyTorch")
    network_help = f"{PREFIX_HELP}; for PyTorch also an .onnx file, or a saved repurposer (.xfer)"
    convert.add_argument(
        "prefix", metavar="SOURCE", help=f"{network_help} that has trained its network"
    )
    convert.add_argument("epoch", nargs="?", type=int, help="the number in SOURCE-0000.params")
    out_help = (
        "the file to write: an .onnx file; a .pt2 file, for torch.export.load; or a .safetensors "
        "file, which holds the parameters by name"
    )
    convert.add_argument("out", type=Path, metavar="OUT", help=out_help)
    layer_help = "cut the network at this layer; can be repeated; by default all of it is written"
    convert.add_argument("--layer", action="append", metavar="NAME", help=layer_help)
    batch_help = "the batch size, for a network written for a fixed one; by default it is free"
    convert.add_argument("--batch", type=int, metavar="N", help=batch_help)
    convert.set_defaults(run=_convert)
    for command in (layers, convert):
        command.add_argument(
            "--shape", action="append", default=[], metavar="INPUT=SIZES", help=_SHAPE_HELP
        )


def open_network(name: str) -> Any:
    """Open the network that a path names: a checkpoint, a file or a folder."""
    from xfer.sources import load_checkpoint, open_source

    if name.endswith(".params") or _is_one_file(Path(name)):
        return open_source(name)
    return load_checkpoint(name, _last_epoch(name))


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
    from xfer.persistence import load
    from xfer.sources import open_source
    from xfer.sources.checkpoint import CheckpointSource

    out, path = options.out, Path(options.prefix)
    if out.suffix not in (".onnx", ".pt2", ".safetensors"):
        raise ValueError(f"{out} must end in .onnx, .pt2 or .safetensors")
    message = ""
    if _is_one_file(path):
        if options.epoch is not None or out.suffix == ".onnx":
            what = "only to .pt2 and .safetensors, and without an epoch"
            raise ValueError(f"{path} can be converted {what}")
        model: Any = load(path) if path.suffix == ".xfer" else open_source(path)
        source: Any = model.features_.source_ if path.suffix == ".xfer" else model
    else:
        epoch = _last_epoch(options.prefix) if options.epoch is None else options.epoch
        network = Network.from_files(options.prefix, epoch)
        shapes, message = _shapes(network, options.shape, options.batch)
        model = source = CheckpointSource(network, data_shapes=shapes)
    names = [layer.name for layer in source.find_layers(options.layer)] if options.layer else None
    if out.suffix == ".onnx":
        outputs = ", ".join(network.export(out, shapes, names))
        print(f"{message}\nWrote {out} with output {outputs}.")
        return
    if not hasattr(model, "to_torch"):
        raise TypeError(f"a {type(model).__name__} cannot be converted to PyTorch")
    module = model.to_torch() if names is None else source.to_torch(names)
    if out.suffix == ".pt2":
        _export(module, source, out, options)
    else:
        from safetensors.torch import save

        with atomic_write(out) as file:
            file.write(save({n: tensor.contiguous() for n, tensor in module.state_dict().items()}))
    print(f"{message}\nWrote {out}.".strip())


def _export(module: torch.nn.Module, source: Any, out: Path, options: argparse.Namespace) -> None:
    """Write what torch.export makes of a module; the batch size is free if none is given."""
    import torch

    batch, body = options.batch, getattr(module, "body", module)
    sizes = _sizes(options.shape, source.input_names)
    inputs = source.example_inputs(body.meta["input_names"], batch or 2, sizes)
    free: Any = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    free = free if body is module else {"args": free}
    program = torch.export.export(module, tuple(inputs), dynamic_shapes=None if batch else free)
    with atomic_write(out) as file:
        torch.export.save(program, file)


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


def _sizes(given: Sequence[str], input_names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read the shapes of one example by input."""
    found = {}
    for text in given:
        match = re.fullmatch(r"(.+)=\(?(\d+(?:,\d+)*)?,?\)?", text.replace(" ", ""))
        if not match or match[1] not in input_names:
            known, like = ", ".join(input_names), f"{input_names[0]}=3,224,224"
            raise ValueError(f"--shape {text} must be like {like}; the inputs are {known}")
        # An input with one number for each example, such as a length, has no sizes.
        found[match[1]] = tuple(map(int, match[2].split(",") if match[2] else ()))
    return found


def _shapes(
    network: Network, given: Sequence[str], batch: int | None = None
) -> tuple[Mapping[str, Dims], str]:
    """Return the shapes of the inputs as far as they are known, and a sentence about them."""
    from xfer.checkpoint.data_shape import guess_sizes
    from xfer.checkpoint.onnx_builder import BATCH, describe_shape

    shapes = dict(network.data_shapes)
    for name, sizes in _sizes(given, network.input_names).items():
        shapes[name] = (BATCH, *sizes)
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
