"""Writing files whole or not at all, and showing progress."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

with warnings.catch_warnings():
    # In a notebook without ipywidgets tqdm warns that it falls back to text bars.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that replaces the file of that name in one step, once all is written."""
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def progress_bar(
    iterable: Any,
    wanted: bool | None,
    total: int | None,
    what: str = "features",
    unit: str = "batch",
) -> tqdm:
    """Make a bar that shows after a second; `wanted=None` is only in an interactive session."""
    if wanted is None:
        wanted = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    return tqdm(iterable, total=total, disable=not wanted, delay=1, desc=what, unit=unit)
