"""Try what `python -m build` made where only the wheel is installed: ``make wheel``.

    python -P tests/try_wheel.py dist

The wheel has to hold all of `xfer/` as it is in the checkout and nothing else, and README.md has to
run with it in an empty folder.
"""

import os
import re
import sys
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: A link or picture of a page, but for those that begin with https:// or lead to a heading.
RELATIVE = re.compile(r"!?\[[^\]]*\]\((?!https?://|#)[^)]*\)")


def main(folder):
    """Look into the archives, then run README.md with what is installed.

    Parameters
    ----------
    folder : str
        Where one wheel and one source archive are.
    """
    (wheel,), (source,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
    check_archives(wheel, source)
    check_metadata()
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    os.environ.setdefault("MPLBACKEND", "Agg")
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        conditions = run(page)
        os.chdir(ROOT)
    print(f"{wheel.name}: README.md runs, and its {conditions} conditions hold.")


def check_archives(wheel, source):
    """Compare both archives with the checkout, file by file.

    Parameters
    ----------
    wheel, source : pathlib.Path
    """
    files = [path for path in ROOT.glob("xfer/**/*") if path.is_file()]
    expected = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in files
        if "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    about = {name for name in packed if re.match(r"xfer-[^/]+\.dist-info/", name)}
    _same({name: packed[name] for name in {*packed} - about}, expected, wheel)
    _need(any(name.endswith("/LICENSE") for name in about), f"{wheel} has no LICENSE")
    with tarfile.open(source) as archive:
        members = {
            member.name.partition("/")[2]: archive.extractfile(member).read()
            for member in archive.getmembers()
            if member.isfile()
        }
    packed = {name: held for name, held in members.items() if name.startswith("xfer/")}
    _same(packed, expected, source)


def _same(packed, expected, archive):
    for name in sorted({*packed, *expected}):
        _need(name in packed, f"{name} is missing in {archive}")
        _need(name in expected, f"{archive} has {name}, and xfer/ has not")
        _need(packed[name] == expected[name], f"{name} in {archive} is not that of the checkout")


def check_metadata():
    """See that what is installed is the wheel, and that a package index can show what it says."""
    import xfer

    where = Path(xfer.__file__).resolve()
    _need(where.is_relative_to(Path(sys.prefix).resolve()), f"xfer is of {where}, no wheel's")
    about = metadata.metadata("xfer")
    _need(about["Version"] == xfer.__version__, f"the metadata are of {about['Version']}")
    _need(about.get("License-Expression") or about.get("License"), "the metadata name no licence")
    links = RELATIVE.findall(about.get_payload())
    _need(not links, f"links that lead nowhere on a package index: {', '.join(links[:3])} ...")


def run(page):
    """Run the Python of a page, and check its conditions.

    Parameters
    ----------
    page : str
        Markdown.

    Returns
    -------
    int
        How many conditions there are.
    """
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    names = {"__name__": "__page__"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    conditions = re.findall(r"^# -> (.+)$", "\n".join(blocks), re.M)
    for condition in conditions:
        _need(eval(condition, names), f"README.md says, and it is not so: {condition}")
    _need(conditions, "README.md has no conditions")
    return len(conditions)


def _need(true, otherwise):
    if not true:
        raise SystemExit(otherwise)


if __name__ == "__main__":
    main(*sys.argv[1:])
