"""The list of experiments."""

import index


def test_the_list_is_up_to_date():
    written = (index.HERE / "README.md").read_text()
    assert written == index.page(), "run: python experiments/index.py"


def test_every_folder_of_results_belongs_to_a_script():
    folders = (index.HERE, index.HERE / "benchmarks")
    names = {path.stem for folder in folders for path, _ in index.scripts(folder)}
    kept = {path.name for path in (index.HERE / "results").iterdir()}
    assert kept <= names
