"""Files written whole or not at all, and progress bars."""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

with warnings.catch_warnings():
    # In a notebook without ipywidgets, tqdm warns that it falls back to text bars, which are fine.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` in one step once it is complete."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} in")
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
    iterable: Iterable[Any] | None,
    wanted: bool | None,
    total: int | None,
    what: str = "features",
    unit: str = "batch",
) -> Any:
    """Make a tqdm bar that appears after a second; `wanted=None` means in interactive sessions."""
    if wanted is None:
        wanted = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    return tqdm(iterable, total=total, disable=not wanted, delay=1, desc=what, unit=unit)
