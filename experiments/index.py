"""The list of all experiments, `experiments/README.md`: what each script shows, and its pages.

    python experiments/index.py

Written anew whenever a script or a page is added.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from rows import NOT_RUN

HERE = Path(__file__).parent
TEXT = """\
# Experiments

Everything that was measured, one script each. A script writes its page, its pictures and its data,
one folder for each under `results/`; benchmarks have a page for each device.
[Reproduce a table](../jaxprune/commands/docs/reproduce_a_table.md) says how. This list is made by
`python experiments/index.py`.
"""


def scripts(folder: Path) -> Iterator[tuple[Path, str]]:
    """What can be run in a folder, with the first line of its text; shared modules aside."""
    for path in sorted(folder.glob("*.py")):
        source = path.read_text()
        text = ast.get_docstring(ast.parse(source)) or ""
        if "__main__" in source and path != Path(__file__):
            yield path, text.split("\n")[0]


def pages(script: Path) -> str:
    """Links to what a script has written, or "not run"; nothing for those that only draw."""
    folder = HERE / "results" / script.stem
    found = sorted(folder.glob("*.md")) or sorted(folder.glob("*.json"))
    links = [
        f"[{'page' if page.stem == 'README' else page.stem}]({page.relative_to(HERE).as_posix()})"
        for page in found
        if page.stem != "report"  # a run's own
    ]
    drawn_only = "results" not in script.read_text()
    return ", ".join(links) or ("" if drawn_only else NOT_RUN)


def page() -> str:
    """The whole list as Markdown."""
    parts = [TEXT]
    for title, folder in (("Tables and figures", HERE), ("Speed", HERE / "benchmarks")):
        parts += [f"## {title}", "", "| script | what it shows | results |", "|---|---|---|"]
        for path, text in scripts(folder):
            link = f"[`{path.name}`]({path.relative_to(HERE).as_posix()})"
            parts.append(f"| {link} | {text} | {pages(path)} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    (HERE / "README.md").write_text(page())
