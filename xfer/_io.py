"""Files that are written completely or not at all, and progress bars."""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

with warnings.catch_warnings():
    # Without ipywidgets tqdm warns in a notebook and falls back to bars of text, which will do.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` in one step, and only if no error occurs."""
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
    iterable: Iterable | None,
    wanted: bool | None,
    total: int | None,
    what: str = "features",
    unit: str = "batch",
) -> Any:
    """Return a tqdm bar that appears after a second; `wanted=None` means interactive sessions."""
    if wanted is None:
        wanted = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    return tqdm(iterable, total=total, disable=not wanted, delay=1, desc=what, unit=unit)
