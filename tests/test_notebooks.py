"""The notebooks are committed executed, their pictures are small, and they still run."""

import base64
import pathlib

import pytest

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[1] / "notebooks"

every_notebook = pytest.mark.parametrize(
    ("name", "num_pictures"), [("proximal_transform", 6), ("prune_your_own_model", 2)]
)


def read(name):
    nbformat = pytest.importorskip("nbformat", reason="nbformat reads notebooks")
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


@every_notebook
def test_is_executed_with_small_pictures(name, num_pictures):
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == num_pictures
    assert all(len(base64.b64decode(picture)) < 100_000 for picture in pictures)


@pytest.mark.slow
@every_notebook
def test_runs(name, num_pictures):
    nbclient = pytest.importorskip("nbclient", reason="nbclient executes notebooks")
    if name == "prune_your_own_model":
        pytest.importorskip("equinox")
        pytest.importorskip("haiku")
    nbclient.NotebookClient(read(name), timeout=600, kernel_name="python3").execute()
