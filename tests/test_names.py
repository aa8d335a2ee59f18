"""Every name that the pages, notebooks and docstrings give works after `import jaxprune` alone."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxprune

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *ROOT.glob("jaxprune/commands/docs/*.md"), ROOT / "CHANGELOG.md"]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
SOURCES = sorted(ROOT.glob("jaxprune/**/*.py"))
SHORT = (
    *("export.onnx", "export.stablehlo", "lowering.lower", "problem.shares", "budgets.find"),
    *("agents.mcts", "baselines.random_mask", "adapters.from_nnx", "evaluation.evaluate"),
    *("models.build", "data.load", "own_widths.evaluator", "report", "bench"),
)


def docstrings(source):
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, documented))
    return "\n".join(ast.get_docstring(node) or "" for node in nodes)


def documented_names():
    """{name below `jaxprune`: a file that gives it}."""
    texts = {path: path.read_text() for path in PAGES}
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells)
    texts |= {path: docstrings(path.read_text()) for path in SOURCES}
    return {
        name: path.name
        for path, text in texts.items()
        for name in re.findall(r"\bjaxprune\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", text)
    }


def test_documented_and_short_names_work_after_importing_the_package_alone():
    names = documented_names() | dict.fromkeys(SHORT, "the short names")
    assert len(names) > 60
    code = """
import json, sys
import jaxprune
missing = []
for name in json.loads(sys.stdin.read()):
    value = jaxprune
    try:
        for part in name.split("."):
            value = getattr(value, part)
    except AttributeError:
        missing.append(name)
print(json.dumps(missing))
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(sorted(names, key=lambda name: (-name.count("."), name))),
        capture_output=True,
        text=True,
        check=True,
    )
    assert {name: names[name] for name in json.loads(run.stdout)} == {}


def test_names_that_are_nowhere_are_refused():
    with pytest.raises(AttributeError, match=r"'jaxprune' has no attribute 'pruning'"):
        _ = jaxprune.pruning
    with pytest.raises(AttributeError, match=r"'jaxprune.search' has no attribute 'agent'"):
        _ = jaxprune.search.agent
    assert not hasattr(jaxprune.search, "__wrapped__")
