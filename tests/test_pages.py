"""The README and the how-to pages: their Python runs as it stands, their commands can be typed."""

import importlib
import itertools
import json
import pkgutil
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune.commands import config, docs, presets
from jaxprune.commands.main import COMMANDS
from jaxprune.commands.main import main as command_line
from jaxprune.commands.run import arguments
from jaxprune.commands.run.command import main
from jaxprune.dependency.rules import RULES
from jaxprune.search import agents, methods
from jaxprune.training.data import prepare
from marks import slow_if_in

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
# Those of the checkout, also where the package is installed: their links lead through it.
PAGES = {"README": README} | {
    path.stem: ROOT / "jaxprune" / "commands" / "docs" / path.name for path in docs.PAGES
}

every_page = pytest.mark.parametrize("name", PAGES)


def blocks(name, language):
    """(name of the file that a block is, or "", its text), in order."""
    text = PAGES[name].read_text()
    pattern = rf"```{language}(?: file=(\S+))?\n(.*?)```"
    return re.findall(pattern, text, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, whose modules can be imported; what a page teaches is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    rules, modules = dict(RULES), set(sys.modules)
    yield tmp_path
    RULES.clear()
    RULES.update(rules)
    for module in set(sys.modules) - modules:
        if getattr(sys.modules[module], "__file__", None) == str(tmp_path / f"{module}.py"):
            del sys.modules[module]


def write_modules(name, folder):
    for file, text in blocks(name, "python"):
        if file:
            (folder / file).write_text(text)


def a_run(folder):
    """A run's network, in a folder of the name that the README gives."""
    kernels = {"hidden": jnp.ones((64, 4)), "out": jnp.ones((4, 10))}

    def apply(params, x):
        return jax.nn.relu(x @ params["hidden"]) @ params["out"]

    x = jnp.ones((32, 64))
    jaxprune.save(folder / "runs" / "...", jaxprune.prune(apply, kernels, x), x)
    return x


SLOW = ("set_a_budget", "prune_your_own_model")


@pytest.mark.parametrize("name", slow_if_in(SLOW, PAGES))
def test_python_runs(name, folder, capsys):
    write_modules(name, folder)
    names = {"x": a_run(folder)} if name == "README" else {}
    code = "\n".join(text for file, text in blocks(name, "python") if not file)
    exec(compile(code, str(PAGES[name]), "exec"), names)
    printed = capsys.readouterr().out
    if name == "README":
        assert "{'hidden': 50}" in printed
        assert "hidden       100       7,400          7,400  hidden  out" in printed
    if name == "add_a_primitive_rule":
        assert printed == "no rule for primitive 'triangular_solve'\n"


def test_there_are_pages_and_examples():
    assert {path.stem for path in docs.PAGES} == {
        path.stem for path in (ROOT / "jaxprune" / "commands" / "docs").glob("*.md")
    }
    assert len(PAGES) >= 8
    assert sum(len(blocks(name, "python")) for name in PAGES) >= 15
    assert sum(len(commands(name)) for name in PAGES) >= 25


# -- commands -------------------------------------------------------------------------------------


def commands(name):
    """The commands of a page, each a list of words."""
    text = "".join(text for _, text in blocks(name, "bash")).replace("\\\n", " ")
    lines = [line for typed in text.splitlines() for line in typed.split("&&")]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line]


def exit_code(main):
    """What a command returns, or exits with."""
    try:
        return main()
    except SystemExit as ended:
        return ended.code or 0


def help_of(program, monkeypatch, capsys):
    """What `jaxprune COMMAND --help` or `python SCRIPT --help` prints."""
    command = program[1:] if program[0] == "jaxprune" else ()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["", "--help"])
    if not command:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(program[0], run_name="__main__")
        assert ended.value.code in (0, None)
    else:
        assert exit_code(lambda: command_line([*command, "--help"])) == 0
    return capsys.readouterr().out


def check_run(words, folder):
    """`python -m jaxprune.run`: the arguments are read and possible."""
    (folder / "my_costs.py").write_text("def energy(network):\n    return 1.0\n")
    if "--help" in words:
        words.remove("--help")
    if "--resume" in words:
        kept = Path(words[words.index("--out") + 1])
        kept.mkdir(parents=True, exist_ok=True)
        typed = dict(itertools.pairwise(words))
        own = {name: typed[f"--{name}"] for name in ("model", "dataset") if f"--{name}" in typed}
        stored = config.to_json(config.RunConfig(**own), methods.get("mcts").Config())
        (kept / "config.json").write_text(json.dumps(stored))
    config.check(arguments.parse(words).run)


def check_pip(words):
    assert words[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for wanted in words[1:]:
        if extra := re.fullmatch(r"\.\[(\w+)\]", wanted):
            assert extra[1] in extras, wanted
        else:
            assert wanted == "."


@every_page
def test_commands_can_be_typed(name, folder, monkeypatch, capsys):
    programs = {}
    for line in commands(name):
        words = [word for word in line if not re.fullmatch(r"[A-Z_]+=\S*", word)]
        if words[0] == "pip":
            check_pip(words[1:])
        elif words[0] == "pytest":
            assert words[1:] in ([], ["-m", "slow"])
        elif words[:3] == ["python", "-m", "jaxprune.run"]:
            check_run(words[3:], folder)
        elif words[:2] == ["jaxprune", "data"]:
            assert words[2] == "prepare"
            assert words[3] in prepare.NAMES
            assert [word for word in words if word.startswith("--")] in ([], ["--data-dir"])
        elif words[0] == "jaxprune":
            assert words[1] in COMMANDS
            parts = 3 if words[1] == "networks" else 2  # its help is that of each of its parts
            programs.setdefault(tuple(words[:parts]), []).extend(words[parts:])
        else:
            assert words[0] == "python", line
            assert (ROOT / words[1]).is_file(), words[1]
            programs.setdefault((str(ROOT / words[1]),), []).extend(words[2:])
    for program, words in programs.items():
        if program == ("jaxprune", "sweep"):  # it takes the options of a run, too
            assert set(words) & {"--method", "--budget", "--seed", "--out"}
        else:
            shown = help_of(program, monkeypatch, capsys)
            for option in (word for word in words if word.startswith("--")):
                assert option in shown, f"{option} of {' '.join(program)}"


@every_page
def test_links_lead_somewhere(name):
    targets = re.findall(r"\]\(((?!http)[^)#]+)\)", PAGES[name].read_text())
    assert targets or name in ("add_a_method", "add_a_primitive_rule", "glossary")
    for target in targets:
        assert (PAGES[name].parent / target).exists(), target


# -- what the pages say ---------------------------------------------------------------------------


def test_every_method_is_named_where_one_chooses():
    text = PAGES["choose_a_method"].read_text()
    for name in methods.NAMES:
        assert f"`{name}`" in text, name
    for name in presets.UNPUBLISHED:
        assert re.search(rf"`{name}`.*have no preset|`{name}`.*\n?.*have no preset", text), name


def test_the_names_in_the_glossary_exist():
    fields = {}
    modules = [importlib.import_module("jaxprune.search.problem"), jaxprune.costs.budgets]
    for found in pkgutil.walk_packages(agents.__path__, "jaxprune.search.agents."):
        modules.append(importlib.import_module(found.name))
    for module in modules:
        for name, kind in vars(module).items():
            if isinstance(kind, type):
                fields.setdefault(name, set()).update(
                    dir(kind), *(vars(parent).get("__annotations__", ()) for parent in kind.__mro__)
                )
    used = re.findall(r"`([A-Z]\w+)\.(\w+)`", PAGES["glossary"].read_text())
    assert len(used) >= 15
    for owner, name in used:
        assert name in fields[owner], f"{owner}.{name}"


@pytest.mark.slow
def test_a_method_of_ones_own_becomes_an_option(folder, monkeypatch, capsys):
    write_modules("add_a_method", folder)
    monkeypatch.setitem(methods.METHODS, "stepwise", "stepwise")
    monkeypatch.setattr(methods, "NAMES", tuple(methods.METHODS))
    monkeypatch.setitem(presets.QUICK_SEARCH, "stepwise", {"at_once": 4})
    words = ["--method", "stepwise", "--preset", "quick", "--budget", "40%", "--out", "run"]
    assert main([*words, "--pretrain-epochs", "4", "--cache-dir", "cache"]) == 0
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["feasible"]
    assert result["budgets"][0]["share"] <= 0.4
    assert "stepwise" in capsys.readouterr().out


def test_the_method_of_the_page_removes_what_is_missed_least(folder, known_problem):
    write_modules("add_a_method", folder)
    stepwise = importlib.import_module("stepwise")
    worth = jnp.array([5.0, 1.0, 4.0, 2.0, 3.0])
    problem = known_problem((2, 3), 0.6, accuracy=lambda mask: (mask * worth).sum() / 15)
    problem = problem._replace(importance=worth)
    found = stepwise.search(stepwise.Config(), problem, jax.random.PRNGKey(0))
    np.testing.assert_array_equal(found.mask, [1, 0, 1, 0, 1])
    assert found.episodes == 2
    halfway, _ = stepwise.update(
        stepwise.Config(), problem, stepwise.init(stepwise.Config(), problem, None)
    )
    resumed = stepwise.search(stepwise.Config(), problem, None, state=halfway)
    np.testing.assert_array_equal(resumed.archive.masks, found.archive.masks)
