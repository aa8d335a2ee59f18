"""The API reference, by pdoc, with the how-to pages as the page of `jaxprune.commands.docs`."""

import base64
import importlib
import pkgutil
import re
import warnings
from pathlib import Path
from types import ModuleType

import jaxprune
from jaxprune.commands import docs
from jaxprune.errors import UserError

INTERNAL = ("dependency", "commands", "networks.export", "optim.prox")
"""Packages of which the parts are nobody's interface: what they export is documented alone."""


def modules() -> list[str]:
    """The modules that the reference describes, the package first."""
    names = ["jaxprune", "jaxprune.commands.docs"]
    for found in pkgutil.walk_packages(jaxprune.__path__, "jaxprune."):
        part = found.name.removeprefix("jaxprune.")
        if part.endswith("__main__") or any(part.startswith(f"{name}.") for name in INTERNAL):
            continue
        names.append(found.name)
    return list(dict.fromkeys(names))


def write(out: Path) -> Path:
    """Writes the site.

    Args:
        out: Its folder; it is made.

    Returns:
        The page to begin with.

    Raises:
        UserError: The extra docs is not installed, or the folder is a file.
    """
    try:
        import pdoc
        from pdoc import extract, render
    except ImportError as error:
        raise UserError(
            "pdoc, which writes the reference, is not installed: pip install '.[docs]'"
        ) from error
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    specifications: list[str] = []
    covered: set[str] = set()
    for name in modules():
        _load_names(importlib.import_module(name))
        if name not in covered:  # a package brings the submodules that it exports
            specifications.append(name)
            covered.update(extract.walk_specs([name]))
    before = docs.__doc__
    docs.__doc__ = f"{before}\n\n{pages()}"
    try:
        render.configure(docformat="google", math=True, show_source=False)
        with warnings.catch_warnings():
            # optax's type of a state names one of chex's that is not there when it is looked up.
            warnings.filterwarnings("ignore", ".*Import of ArrayTree failed")
            pdoc.pdoc(*specifications, output_directory=out)
    finally:
        docs.__doc__ = before
    return out / "jaxprune.html"


def pages() -> str:
    """All pages as one text: links between them are places in it, pictures are inside."""
    return "\n\n".join(_page(path) for path in docs.PAGES)


def _page(path: Path) -> str:
    text = re.sub(r"```python file=\S+", "```python", path.read_text())
    title = text.partition("\n")[0]
    text = re.sub(r"!\[([^\]]*)\]\(([^)]+)\)", lambda m: _picture(path, *m.groups()), text)
    # Files of a checkout have no address of their own: their path is left.
    text = re.sub(r"\[([^\]]*)\]\(((?!http)[^)]+)\)", lambda m: _link(*m.groups()), text)
    return f'<a id="{path.stem}"></a>\n\n#{title}' + text[len(title) :].replace("\n## ", "\n### ")


def _link(text: str, target: str) -> str:
    if "/" not in target and target.endswith(".md"):
        return f"[{text}](#{target.removesuffix('.md')})"
    return f"{text} (`{target.removeprefix('../../../')}`)"


def _picture(path: Path, text: str, target: str) -> str:
    file = path.parent / target
    kind = {".svg": "svg+xml"}.get(file.suffix, file.suffix[1:])
    content = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{text}" src="data:image/{kind};base64,{content}">'


def _load_names(module: ModuleType) -> None:
    """Loads what a module would load when it is first used: the reference reads what is there."""
    for name in getattr(module, "__all__", ()):
        vars(module).setdefault(name, getattr(module, name))
