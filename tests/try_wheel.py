"""Try the wheel in ``dist`` where only it is installed: ``make wheel``.

    python -P tests/try_wheel.py dist folder-of-other-packages

The wheel must hold all of `xfer/` as it is in the checkout and nothing else; a checkpoint must be
repurposed with nothing but what the wheel brings; and the Python of README.md must run in an empty
folder, with PyTorch and a sentence transformer from the other folder.
"""

import os
import re
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(folder: str, others: str) -> None:
    """Compare the wheel with the checkout, then run README.md with what is installed."""
    (wheel,) = Path(folder).glob("*.whl")
    expected = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in ROOT.glob("xfer/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    about = {name for name in packed if name.startswith("xfer_learn-")}
    need(any(name.endswith("/LICENSE") for name in about), f"{wheel} has no LICENSE")
    for name in sorted({*packed, *expected} - about):
        need(packed.get(name) == expected.get(name), f"{name} differs in {wheel} and xfer/")

    import xfer

    where = Path(xfer.__file__).resolve()
    need(where.is_relative_to(Path(sys.prefix).resolve()), f"xfer comes from {where}")
    version = metadata.version("xfer-learn")
    need(version == xfer.__version__, f"the metadata has version {version}")

    images, digits = xfer.example.digits()
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    auto = xfer.AutoRepurposer(source).fit(images[:100], digits[:100])
    need(auto.score(images[100:300], digits[100:300]) > 0.7, "the example is not repurposed")
    need("torch" not in sys.modules, "an MXNet checkpoint needs PyTorch")
    sys.path.append(others)  # last, so that what the wheel brought comes first

    page = (ROOT / "README.md").read_text(encoding="utf-8")
    os.environ.setdefault("MPLBACKEND", "Agg")
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        blocks = run(page)
        os.chdir(ROOT)
    print(f"{wheel.name}: {blocks} blocks of README.md run.")


def run(page: str) -> int:
    """Run the Python of a page, and count its blocks."""
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    names = {"__name__": "__page__"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    need(blocks, "README.md has no Python")
    return len(blocks)


def need(condition: object, otherwise: str) -> None:
    """Stop with a message unless a condition holds."""
    if not condition:
        raise SystemExit(otherwise)


if __name__ == "__main__":
    main(*sys.argv[1:])
