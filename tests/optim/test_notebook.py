"""The notebook is committed executed, its pictures are small, and it still runs."""

import base64
import pathlib

import pytest

NOTEBOOK = pathlib.Path(__file__).resolve().parents[2] / "notebooks" / "proximal_transform.ipynb"


def read():
    nbformat = pytest.importorskip("nbformat", reason="nbformat reads notebooks")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_is_executed_with_small_pictures():
    code = [cell for cell in read().cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    pictures = [output.data["image/png"] for output in outputs if "data" in output]
    assert len(pictures) == 6
    assert all(len(base64.b64decode(picture)) < 100_000 for picture in pictures)


@pytest.mark.slow
def test_runs():
    nbclient = pytest.importorskip("nbclient", reason="nbclient executes notebooks")
    nbclient.NotebookClient(read(), timeout=600, kernel_name="python3").execute()
