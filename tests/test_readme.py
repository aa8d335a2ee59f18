"""The Python of the README runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_example_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (example,) = [block for block in blocks if "jaxprune.trace" in block]
    exec(compile(example, str(README), "exec"), {})
    printed = capsys.readouterr().out
    assert "hidden  100       hidden  out" in printed
    assert "{'hidden': 50}" in printed
