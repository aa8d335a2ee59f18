"""The notebooks are committed executed, their pictures are small, and they still run."""

import base64
import pathlib
import re

import pytest

import jaxprune

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[1] / "notebooks"

PICTURES = {
    "quickstart": 4,
    "prune_your_own_model": 2,
    "budgets": 4,
    "inside_the_tree": 11,
    "proximal_transform": 6,
}

every_notebook = pytest.mark.parametrize("name", PICTURES)


def read(name):
    nbformat = pytest.importorskip("nbformat", reason="nbformat reads notebooks")
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def test_all_are_tested():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(PICTURES)


@every_notebook
def test_is_executed_with_small_pictures(name):
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == PICTURES[name]
    assert all(len(base64.b64decode(picture)) < 100_000 for picture in pictures)


@every_notebook
def test_shows_no_machine(name):
    for cell in read(name).cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"(^|[\s'\"(])/\w+/|site-packages|\x1b", text), text


@every_notebook
def test_says_where_it_can_run(name):
    introduction = read(name).cells[0].source
    assert "colab.research.google.com" in introduction
    assert "GPU or a TPU" in introduction


@every_notebook
def test_links_lead_somewhere(name):
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(((?!http)[^)#]+)\)", cell.source):
                assert (NOTEBOOKS / target).exists(), target


@pytest.mark.slow
@every_notebook
def test_runs(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient executes notebooks")
    if name == "prune_your_own_model":
        pytest.importorskip("equinox")
        pytest.importorskip("haiku")
    # Elsewhere than in the checkout, with the package that is being tested.
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(jaxprune.__file__).parents[1]))
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(
        read(name), timeout=600, kernel_name="python3", resources=where
    ).execute()
