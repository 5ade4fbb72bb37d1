"""Files written whole or not at all, and progress bars."""

import os
import re
import secrets
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

with warnings.catch_warnings():
    # In a notebook without ipywidgets, tqdm warns that it falls back to text bars, which are fine.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # on Windows
    flock = None  # type: ignore[assignment]


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` in one step once it is complete.

    Until then it is ``NAME.xxxxxxxx.part``, and locked. Such files without a lock were left by
    processes that were killed, and are removed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} in")
    _remove_unfinished(path)
    file = _open_unfinished(path)
    unfinished = Path(file.name)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if flock is None:  # Windows does not move open files
                file.close()
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _open_unfinished(path: Path) -> IO[bytes]:
    while True:
        file = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part").open("x+b")
        # Between these lines, another process may take the file for one that was left.
        if _lock(file) is not False and os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


@lru_cache(64)  # once for each file: some are written every second, in folders of any size
def _remove_unfinished(path: Path) -> None:
    name = re.compile(re.escape(path.name) + r"\.[0-9a-f]{8}\.part")
    with suppress(OSError):  # whatever is wrong here, it does not keep the file from being written
        for other in [one for one in path.parent.iterdir() if name.fullmatch(one.name)]:
            with other.open("r+b") as file:
                if _lock(file):
                    other.unlink()


def _lock(file: IO[bytes]) -> bool | None:
    """Return whether this process has the only lock of a file; None where there are no locks."""
    if flock is None:
        return None
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except OSError as error:  # other errors: some network file systems have no locks
        return False if isinstance(error, BlockingIOError) else None
    return True


def progress_bar(
    iterable: Iterable[Any] | None,
    wanted: bool | None,
    total: int | None,
    what: str = "features",
    unit: str = "batch",
) -> Any:
    """Make a tqdm bar that appears after a second and leaves nothing when it ends.

    `wanted=None` means in interactive sessions. With tqdm 4.66 or later, the environment variable
    TQDM_DISABLE=1 turns all bars off.
    """
    if wanted is None:
        wanted = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    # tqdm reads the variable unless `disable` is given.
    off: dict[str, Any] = {} if wanted else {"disable": True}
    return tqdm(iterable, total=total, delay=1, desc=what, unit=unit, leave=False, **off)
