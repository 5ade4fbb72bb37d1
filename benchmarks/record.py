"""Run a benchmark and put what it prints into docs/benchmarks.md.

``python benchmarks/record.py NAME [ARGUMENTS]`` runs ``benchmarks/NAME.py``. Its output, with the
command, date, machine and versions, replaces the text between the lines ``<!-- NAME -->`` and
``<!-- end of NAME -->`` of the page.
"""

import datetime
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PACKAGES = ["numpy", "scikit-learn", "onnxruntime", "mxnet", "torch"]


def main(name: str, *arguments: str) -> None:
    """Run a benchmark, show what it prints, and rewrite its section."""
    section = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- end of {name} -->)", re.S)
    page = PAGE.read_text(encoding="utf-8")
    if not section.search(page):
        sys.exit(f"{PAGE.name} has no section <!-- {name} --> ... <!-- end of {name} -->")
    command = ["-u", f"benchmarks/{name}.py", *arguments]
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, encoding="utf-8", cwd=ROOT
    ) as process:
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line if line.startswith("|") else f"\n{line}\n")
    if process.returncode:
        sys.exit(f"{name} ended with {process.returncode}; nothing was written")
    # No paths of this machine on the page.
    shown = re.sub(r"(?<=[ =])[~/]\S*", "FOLDER", " ".join(["python", *command[1:]]))
    today = datetime.date.today().isoformat()
    text = f"`{shown}`, {today}, on {machine()}, {versions()}.\n\n{''.join(lines)}"
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    PAGE.write_text(section.sub(lambda _: text, page), encoding="utf-8")


def machine() -> str:
    """Describe this machine by its processor and memory."""
    information = Path("/proc/cpuinfo")
    found = information.exists() and re.search(r"model name\s*: (.+)", information.read_text())
    processor = found[1] if found else platform.processor() or platform.machine()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{os.cpu_count()} cores of {processor}, {memory:.0f} GiB"


def versions() -> str:
    """List the versions of Python and of the packages that are installed."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
