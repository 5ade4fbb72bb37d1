"""Make the notebooks of the tutorials: from their scripts, with what each cell puts out.

``python docs/notebooks.py`` writes ``examples/*.ipynb``. With ``--check`` nothing is written: every
script is run as a notebook anew, and it fails if a cell raises or writes to stderr, or if the
notebook that is there has other cells, or cells that put out something of another kind.
"""

import argparse
import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image
from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF
from sphinx_gallery.notebook import jupyter_notebook
from sphinx_gallery.py_source_parser import remove_config_comments, split_code_and_text_blocks

EXAMPLES = Path(__file__).parents[1] / "examples"
TUTORIALS = [EXAMPLES / "text_transfer.py", EXAMPLES / "image_transfer.py"]
BAR = re.compile(r"[^\r\n]*\d+%\|[^\r\n]*\|[^\r\n]*\]")


def main(arguments=None):
    """Write or check the notebooks; return how many faults there are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scripts", nargs="*", type=Path, default=TUTORIALS)
    parser.add_argument("--check", action="store_true", help="write nothing, and look for faults")
    options = parser.parse_args(arguments)
    if options.scripts is TUTORIALS and not os.environ.get("XFER_TEST_DATA"):
        print("XFER_TEST_DATA names no folder of models and data: the tutorials are not run.")
        return 0
    faults = [fault for script in options.scripts for fault in deal_with(script, options.check)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return len(faults)


def deal_with(script, check):
    """Run a script as a notebook, write or check its file, and list the faults (str)."""
    path = script.with_suffix(".ipynb")
    made = converted(script)
    faults = executed(made, script.parent)
    if check:
        faults += differences(made, path)
    elif not faults:
        nbformat.write(made, path)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
    return [f"{path.name}: {fault}" for fault in faults]


def converted(script):
    """Return a script as a notebook without outputs."""
    _, blocks = split_code_and_text_blocks(script)
    made = nbformat.from_dict(jupyter_notebook(blocks, DEFAULT_GALLERY_CONF, script.parent))
    made.nbformat_minor = 5
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"  # the same every time
        cell.metadata = {}
        cell.source = remove_config_comments("".join(cell.source)).strip()
    return made


def executed(notebook, folder):
    """Run the cells of a notebook as in a folder, put in what comes out, and list the faults."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder.resolve()),  # what lies beside a notebook can be imported
        "PYTHONWARNINGS": "ignore:IProgress not found",  # what tqdm says without ipywidgets
    }
    environment.pop("MPLBACKEND", None)  # figures go into the notebook
    with tempfile.TemporaryDirectory() as elsewhere:
        environment["IPYTHONDIR"] = elsewhere  # no settings of one's own
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            record_timing=False,
            extra_arguments=["--IPKernelApp.log_level=40"],  # errors only
            resources={"metadata": {"path": elsewhere}},
        )
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            return [f"a cell raises\n{error}"]
    notebook.metadata.language_info = {"name": "python"}  # no versions
    for cell in code_cells(notebook):
        cell.outputs = [output for output in cell.outputs if not is_bar(output)]
        for output in cell.outputs:
            output.get("metadata", {}).clear()
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
    return [
        f"stderr of the cell that begins {cell.source.splitlines()[0]!r}:\n{output.text}"
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.get("name") == "stderr"
    ]


def is_bar(output):
    """Tell whether an output is a bar of tqdm, which is for those who wait."""
    return output.get("name") == "stderr" and not BAR.sub("", output.text).strip()


def smaller(picture):
    """Return a PNG in base64 with no more than 256 colours, which takes a third of the bytes."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    written = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode("ascii")


def differences(made, path):
    """List how the notebook of a file is not the one that was made."""
    if not path.exists():
        return ["there is none: python docs/notebooks.py makes it"]
    there = nbformat.read(path, as_version=4)
    if [outline(cell) for cell in there.cells] != [outline(cell) for cell in made.cells]:
        return ["its cells are not those of the script: python docs/notebooks.py makes it anew"]
    return [
        f"the cell that begins {cell.source.splitlines()[0]!r} puts out {kinds(now)}, "
        f"in the file {kinds(cell)}"
        for cell, now in zip(code_cells(there), code_cells(made))
        if kinds(cell) != kinds(now)
    ]


def code_cells(notebook):
    """Return the cells that are run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outline(cell):
    """Return what a cell is, without what it puts out."""
    return cell.cell_type, cell.source


def kinds(cell):
    """Return what kinds of output a cell has: stdout, image/png, ..."""
    return [
        output.get("name") or "/".join(sorted(output.get("data", {}))) for output in cell.outputs
    ]


if __name__ == "__main__":
    sys.exit(bool(main()))
