"""Write docs/benchmarks.md from ``page.md`` and what ``record.py`` kept.

Run with ``python benchmarks/page.py``. A line ``{{ NAME }}`` of ``page.md`` becomes the command,
the date and all that ``results/NAME.json`` holds; ``{{ machine }}`` the machine of most results.
"""

import json
import re
from collections import Counter
from pathlib import Path

from record import FOLDER, RESULTS

TEMPLATE = FOLDER / "page.md"
PAGE = FOLDER.parent / "docs" / "benchmarks.md"


def main():
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page():
    """Return the page as Markdown."""
    results = read(RESULTS)
    usual = Counter(map(where, results.values())).most_common(1)[0][0]

    def fill(found):
        if found[1] == "machine":
            return usual + "."
        if found[1] not in results:
            raise SystemExit(f"{TEMPLATE.name} has {found[0]}; {RESULTS.name} has no such file")
        return section(results[found[1]], usual)

    return re.sub(r"^\{\{ (\w+) \}\}$", fill, TEMPLATE.read_text(encoding="utf-8"), flags=re.M)


def read(folder):
    """Return all results by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(Path(folder).glob("*.json"))
    }


def where(result):
    """Describe the machine and the versions in a line."""
    packages = (f"{name} {version}" for name, version in result["versions"].items())
    return ", ".join([result["machine"], *packages])


def section(result, usual):
    """Return a result as Markdown: the command and the date, then what it printed."""
    start = f"`{result['command']}`, {result['date']}"
    if where(result) != usual:
        start += f", on {where(result)}"
    parts = [start + ".", *map(markdown, result["printed"])]
    return "\n\n".join(parts)


def markdown(printed):
    """Return a line, or a table with its columns of numbers to the right."""
    if "text" in printed:
        return printed["text"]
    columns, rows = printed["columns"], printed["rows"]
    numbers = [all(re.match(r"[-+]?\d", cell) for cell in column) for column in zip(*rows)]
    lines = [columns, ["---:" if number else "---" for number in numbers], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
