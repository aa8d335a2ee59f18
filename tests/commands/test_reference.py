"""The API reference: which modules it has, and that pdoc builds it without a warning."""

import importlib.util
import re
import warnings

import pytest

from jaxprune.commands import docs
from jaxprune.commands.docs import reference
from jaxprune.commands.docs.command import main

HAS_PDOC = importlib.util.find_spec("pdoc") is not None


def test_public_modules_are_in_it():
    names = reference.modules()
    assert names[:2] == ["jaxprune", "jaxprune.commands.docs"]
    assert len(set(names)) == len(names)
    assert {"jaxprune.search.agents.mcts.tree", "jaxprune.optim", "jaxprune.costs"} <= set(names)
    assert not [name for name in names if "__main__" in name]
    assert "jaxprune.dependency.atoms" not in names


def test_pages_become_places_in_one_text():
    text = reference.pages()
    for path in docs.PAGES:
        assert f'<a id="{path.stem}"></a>' in text
    assert "[add one](#add_a_primitive_rule)" in text
    assert "five seeds (`experiments/results/default_run/README.md`)" in text
    assert "file=" not in text


@pytest.mark.skipif(HAS_PDOC, reason="pdoc is installed")
def test_without_pdoc_the_extra_is_named(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "site")]) == 2
    assert "pip install '.[docs]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PDOC, reason="pdoc, of the extra docs, writes the reference")
def test_it_is_built_without_warnings(tmp_path):
    before = docs.__doc__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        begin = reference.write(tmp_path)
    assert docs.__doc__ == before
    assert re.search(r"def\s+prune", re.sub(r"<[^>]+>", "", begin.read_text()))
    for name in reference.modules():
        assert (tmp_path / f"{name.replace('.', '/')}.html").is_file(), name
    page = (tmp_path / "jaxprune" / "docs.html").read_text()
    places = set(re.findall(r'id="([^"]+)"', page))
    links = re.findall(r'href="#([^"]+)"', page)
    assert set(links) <= places
    assert len(links) >= 8


@pytest.mark.skipif(not HAS_PDOC, reason="pdoc, of the extra docs, writes the reference")
def test_the_folder_must_be_one(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "file")]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err
