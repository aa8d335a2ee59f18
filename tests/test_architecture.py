"""The rooms of the package: imports run one way, and the page about them tells the truth."""

import ast
import re
from pathlib import Path

import pytest

import jaxprune
from jaxprune.commands import docs

PACKAGE = Path(__file__).parents[1] / "jaxprune"
GROUND = ("errors", "lazy", "version")  # what every room may use
ENTRANCES = ("__init__", "__main__", "run")  # what nothing inside may use
PAGE = PACKAGE / "commands" / "docs" / "architecture.md"


def room_of(module):
    """The first name below `jaxprune` in `jaxprune.costs.limits`; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def imports(source):
    """The modules of the package that a source names in its imports, wherever these stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "jaxprune":
            names = [f"jaxprune.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            assert not node.level, "relative imports hide where a name comes from"
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "jaxprune")


def upward(room, source):
    """The imports of a source in `room` that no room above `room` may have."""
    allowed = {*GROUND, *jaxprune.ROOMS[: jaxprune.ROOMS.index(room) + 1]}
    return sorted({name for name in imports(source) if room_of(name) not in allowed})


@pytest.mark.parametrize("room", jaxprune.ROOMS)
def test_imports_run_one_way(room):
    found = {
        str(path.relative_to(PACKAGE)): wrong
        for path in sorted((PACKAGE / room).rglob("*.py"))
        if (wrong := upward(room, path.read_text()))
    }
    if room == "commands":  # the reference walks through the whole package
        assert found.pop("commands/docs/reference.py") == ["jaxprune"]
    assert not found


def test_an_import_that_runs_up_is_found():
    assert upward("costs", "from jaxprune.dependency import trace") == []
    assert upward("costs", "def f():\n    from jaxprune.search import problem") == [
        "jaxprune.search"
    ]
    assert upward("optim", "from jaxprune import importance") == ["jaxprune.importance"]
    assert upward("optim", "import jaxprune") == ["jaxprune"]


def test_every_file_is_in_a_room():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} == set(
        jaxprune.ROOMS
    )
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*GROUND, *ENTRANCES}


def test_the_page_lists_the_rooms_in_their_order():
    assert tuple(re.findall(r"^\| `(\w+)/` \|", PAGE.read_text(), re.MULTILINE)) == jaxprune.ROOMS


def test_the_files_that_the_page_names_exist():
    named = re.findall(r"`(\w+/[\w/.]*)`", PAGE.read_text())
    assert len(named) > 30
    for name in named:
        assert (PACKAGE / name).exists() or (PACKAGE.parent / name).exists(), name


def test_the_page_is_among_the_how_to_pages():
    assert PAGE.name in {path.name for path in docs.PAGES}
