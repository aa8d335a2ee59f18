"""The Python of the README runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_example_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    example = "\n".join(block for block in blocks if "jaxprune.load" not in block)
    assert "jaxprune.prune(" in example
    assert "jaxprune.trace(" in example
    exec(compile(example, str(README), "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("{'hidden': 50}")
    assert "hidden       100       7,400          7,400  hidden  out" in printed
