"""The command line: what is in a network, models for a new task, and their predictions.

Commands import what they need, so that ``xfer --help`` is quick.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from xfer import __version__
from xfer.cli import models, networks, predict

__all__ = ["main"]

_DESCRIPTION = "Repurpose a pre-trained network for a new task with few labels."
_EPILOG = """\
a model in three lines:
  xfer layers resnet50.onnx                           # what the network has
  xfer fit resnet50.onnx photos/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 -o photos.xfer
  xfer predict photos.xfer new_photos/ -o found.csv   # label, probability, uncertainty, novelty

DATA of fit, predict and evaluate:
  a folder                    pictures; for fit and evaluate, in one folder for each class
  .csv .tsv .jsonl .parquet   a column of texts, or of paths or bytes of pictures, and maybe one
                              of labels; relative paths begin at the folder of the table
  .npz                        arrays: inputs of the network, or pictures

exit codes:
  0    everything is done
  1    it failed, for the reason that is printed
  2    the command is not written as --help says
  3    done, except for rows that could not be read, which were reported (--errors report)
  130  interrupted; for predict, the same command continues
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default that of the process; return its exit code, see ``--help``."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            return options.run(options) or 0
    except BrokenPipeError:  # as in `xfer predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        print(f"xfer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(" ".join(["xfer: interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "xfer",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"xfer-learn {__version__}")
    parser.set_defaults(run=lambda options: parser.print_help())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for module in (networks, models, predict):
        module.add_commands(commands)
    return parser


def _show_warning(message: Any, *_: Any) -> None:
    print(f"xfer: warning: {message}", file=sys.stderr)
