"""The map in CONTRIBUTING.md is the code's: every import of `xfer/` is read and looked up in it."""

import ast
import importlib.util
import re
import sys
from fnmatch import fnmatch
from itertools import chain, product
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
XFER = ROOT / "xfer"

# What stands before the rooms, and what it imports of them. The public names are looked up in
# `xfer._PUBLIC` when they are asked for.
ENTRANCES = {"__init__.py": {"_compat.py"}, "__main__.py": {"cli.py"}}
# It looks for the version of whatever package the user's code is of.
ANY_PACKAGE = ("cache/code.py", "?")


class Import(NamedTuple):
    """A module, or a name in it, and whether only a function imports it, when it runs."""

    name: str
    later: bool


def imports_of(text, package):
    """Read what a file imports (set of Import); `package` is the one it is in."""
    found, waiting = set(), [(ast.parse(text), False)]
    while waiting:
        node, later = waiting.pop()
        found.update(Import(name, later) for name in _names(node, package))
        later = later or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        waiting += [(child, later) for child in ast.iter_child_nodes(node)]
    return found


def _names(node, package):
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            around = package.split(".")[: 1 - level or None] if level else []
            return [".".join([*around, *filter(None, [module, alias.name])]) for alias in names]
        case ast.Attribute(value=ast.Name(id="xfer"), attr=name):
            return [f"xfer.{name}"]
        case ast.Call(func=function, args=[name, *_]) if _imports(function):
            return [_written(name)]
    return []


def _imports(function):
    name = getattr(function, "attr", getattr(function, "id", None))
    return name in ("import_module", "__import__")


def _written(name):
    """Return as much of a name as is written down: f"xfer.meta.{name}" is "xfer.meta.?"."""
    match name:
        case ast.Constant(value=str(text)) if not text.startswith("."):
            return text
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            return f"{text}?"
    return "?"


def room_of(name):
    """Return the room of a dotted name of xfer's, as the table writes it."""
    import xfer

    first = [*name.split("."), "__init__"][1]
    first = xfer._PUBLIC.get(first, first)
    if (XFER / first).is_dir():
        return f"{first}/"
    return f"{first}.py" if (XFER / f"{first}.py").is_file() else "__init__.py"


def code():
    """Read all of xfer (dict of path in it to set of Import)."""
    found = {}
    for path in sorted(XFER.rglob("*.py")):
        package = ".".join(path.relative_to(ROOT).parts[:-1])
        found[path.relative_to(XFER).as_posix()] = imports_of(path.read_text("utf-8"), package)
    assert len(found) > 80
    return found


def is_of_xfer(found):
    return found.name.split(".")[0] == "xfer"


@pytest.fixture(scope="module")
def tool():
    """The script that draws the map."""
    spec = importlib.util.spec_from_file_location("map_of_the_code", ROOT / "docs" / "map.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(tool):
    return tool.PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rooms(tool, page):
    """Room by name."""
    found = {room.name: room for room in tool.read_rooms(page)}
    assert len(found) > 20
    return found


def test_imports_of_every_form_are_read():
    text = """
import xfer.text, json
from xfer import cache
from . import words
from ..sources.base import Layer
try:
    import torch.nn
except ImportError:
    pass
class Lazy:
    import mxnet
    def load(self, name):
        from xfer.features import *
        xfer.persistence.save()
        importlib.import_module(f"xfer.meta.{name}")
        return lambda: __import__("tqdm"), importlib.import_module(name)
"""
    now = {"xfer.text", "json", "xfer.cache", "xfer.text.words", "xfer.sources.base.Layer"}
    now |= {"torch.nn", "mxnet"}
    later = {"xfer.features.*", "xfer.persistence", "xfer.meta.?", "tqdm", "?"}
    found = imports_of(text, "xfer.text")
    assert {name for name, when in found if not when} == now
    assert {name for name, when in found if when} == later
    assert room_of("xfer.text.words") == "text/"
    assert room_of("xfer.features.*") == "features.py"
    assert room_of("xfer.load") == "persistence.py"
    assert room_of("xfer") == room_of("xfer.__version__") == room_of("xfer.?") == "__init__.py"


def test_every_module_is_in_a_room(rooms):
    found = {room_of("xfer." + path.split("/")[0].removesuffix(".py")) for path in code()}
    assert found - {*ENTRANCES} == {*rooms}
    assert {"__init__.py", "__main__.py"} == {*ENTRANCES}


def test_rooms_import_what_the_map_says_and_no_other(rooms):
    used = {name: (set(), set()) for name in {*rooms, *ENTRANCES}}
    for path, imports in code().items():
        room = path.split("/")[0] + "/" if "/" in path else path
        for found in filter(is_of_xfer, imports):
            used[room][found.later].add(room_of(found.name))
    helpers = {name for name, room in rooms.items() if room.step == "helper"}
    imported = set()
    for name, (now, later) in used.items():
        imported |= now | later
        now, later = now - {name}, later - {name}
        if name in ENTRANCES:
            assert now == ENTRANCES[name] and not later
            continue
        now, later = now - helpers, later - helpers
        room = rooms[name]
        more = (now - {*room.imports}) | (later - {*room.imports, *room.later})
        assert not more, f"{name} imports {more}, which its row does not name"
        gone = {*room.imports} - now - later | {*room.later} - (later - now)
        assert not gone, f"{name} does not import {gone}, which its row names"
        assert name not in helpers or not now | later, f"{name} is a helper, and imports rooms"
    assert helpers <= imported


def test_rooms_import_only_rooms_above_their_own(rooms):
    names = list(rooms)
    for place, room in enumerate(rooms.values()):
        assert {*room.imports} <= {*names[:place]}, room.name
        assert {*room.later} <= {*names}, room.name


def test_other_packages_have_their_places(tool, page):
    allowed = set()
    for packages, cell in tool.read_rows(page, "package"):
        places = re.findall("`(.+?)`", cell) or ["*"]
        allowed.update(product(re.findall("`(.+?)`", packages), places))
    used = set()
    for path, imports in code().items():
        packages = {found.name.split(".")[0] for found in imports}
        for package in packages - {"xfer", *sys.stdlib_module_names}:
            if (path, package) == ANY_PACKAGE:
                continue
            rows = {(name, place) for name, place in allowed if name == package}
            rows = {row for row in rows if fnmatch(path, re.sub("/$", "/*", row[1]))}
            assert rows, f"{path} imports {package}, and no row says so"
            used |= rows
    assert used == allowed, "a row says more than there is"


def test_the_picture_is_what_the_tool_draws(tool, rooms):
    """Up to half a pixel: linear programs are solved by other versions of SciPy elsewhere."""
    number = re.compile(r"-?\d+\.\d+")
    kept, drawn = tool.PICTURE.read_text(encoding="utf-8"), tool.draw(list(rooms.values()))
    assert number.sub("#", kept) == number.sub("#", drawn), "python docs/map.py draws it anew"
    pairs = zip(*(map(float, number.findall(text)) for text in (kept, drawn)))
    assert all(abs(one - other) <= 0.5 for one, other in pairs), "python docs/map.py draws it anew"
    words = {text.text for text in ElementTree.fromstring(drawn).iter() if text.text}
    assert words >= {room.name for room in rooms.values() if room.step != "helper"}


def test_the_picture_has_an_arrow_for_all_that_no_longer_way_says(tool, rooms):
    reach = {}
    for room in rooms.values():
        direct = {name for name in room.imports if rooms[name].step != "helper"}
        further = set(chain.from_iterable(reach[name] for name in direct))
        reach[room.name] = direct | further
    needed = sum(
        not any(name in reach[other] for other in room.imports)
        for room in rooms.values()
        for name in room.imports
    )
    assert len(re.findall(r'<path d="M[^"]+"/>', tool.draw([*rooms.values()]))) == needed
