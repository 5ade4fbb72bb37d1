"""Run a benchmark and keep what it prints, with its date, machine and versions.

``python benchmarks/record.py NAME [ARGUMENTS]`` runs ``benchmarks/NAME.py``, shows what it prints
and writes ``benchmarks/results/NAME.json``. ``python benchmarks/page.py`` then writes the page.
"""

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
HELPERS = {"newsgroups_data", "page", "picture", "record", "sources"}
PACKAGES = {
    "numpy": "NumPy",
    "scikit-learn": "scikit-learn",
    "onnxruntime": "ONNX Runtime",
    "mxnet": "MXNet",
    "torch": "PyTorch",
}


def main(arguments):
    """Run a benchmark, show what it prints, and keep it."""
    name, *others = arguments or [""]
    if name not in benchmarks():
        sys.exit(f"name a benchmark first, got {name!r}: one of {', '.join(benchmarks())}")
    result = {
        "command": command(name, others),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "printed": parse(run(name, others)),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(dump(result), encoding="utf-8")


def benchmarks():
    """Name the scripts in this folder that measure something."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)


def command(name, arguments):
    """Return the command as the page shows it, without the paths of this machine."""
    shown = [re.sub(r"(^|=)[~/].*", r"\1FOLDER", argument) for argument in arguments]
    return " ".join([f"python benchmarks/{name}.py", *shown])


def machine():
    """Describe this machine by its processor, memory and system."""
    information = Path("/proc/cpuinfo")
    found = information.exists() and re.search(r"model name\s*: (.+)", information.read_text())
    processor = found[1] if found else platform.processor() or "unknown processor"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:  # not Linux
        system = f"{platform.system()} {platform.release()}"
    return (
        f"{os.cpu_count()} cores of {processor} ({platform.machine()}), {memory:.0f} GiB, {system}"
    )


def versions():
    """Return the versions of Python and of the packages that are installed, by name."""
    found = {"Python": platform.python_version()}
    for package, name in PACKAGES.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def run(name, arguments):
    """Run a benchmark as a process of its own, show what it prints, and return the lines."""
    start = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    lines = []
    with subprocess.Popen(
        start,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    if process.returncode:
        sys.exit(f"{name} ended with {process.returncode}; nothing was written")
    return lines


def parse(lines):
    """Take what was printed apart.

    Parameters
    ----------
    lines : list of str

    Returns
    -------
    list of dict
        In the order printed: ``{"text": line}``, or a table as ``{"columns": list of str, "rows":
        list of lists of str}``.

    Raises
    ------
    ValueError
        If a table has no row, no line below its columns, or a row of another length.
    """
    printed = []
    lines = iter(lines)
    for line in lines:
        if line.startswith("|"):
            table = [line]
            while (line := next(lines, "")).startswith("|"):
                table.append(line)
            printed.append(as_table(table))
        if line.strip():
            printed.append({"text": line.strip()})
    return printed


def as_table(lines):
    """Return columns and rows of a table in Markdown."""
    columns, *rows = ([cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines)
    if len(rows) < 2 or set("".join(rows[0])) - set(":-"):
        raise ValueError(f"a table needs columns, a line of --- and rows, got {lines[:3]}")
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row has {len(row)} cells for {len(columns)} columns: {row}")
    return {"columns": columns, "rows": rows[1:]}


def dump(result):
    """Return JSON with a line for each row, so that a change of a figure reads well."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    return re.sub(r"\[\n\s*([^\[\]{}]*?)\n\s*\]", one_line, text) + "\n"


def one_line(found):
    """Put what is between two brackets on one line."""
    return "[" + re.sub(r"\n\s*", " ", found[1]) + "]"


if __name__ == "__main__":
    main(sys.argv[1:])
