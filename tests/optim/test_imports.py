"""The folder stands on jax and optax alone."""

import subprocess
import sys


def test_importing_loads_nothing_else_of_the_package_or_of_its_dependencies():
    code = """
import sys
import jaxprune.optim
roots = {name.split(".")[0] for name in sys.modules}
others = {"flax", "tensorflow_datasets", "orbax", "mctx", "tyro", "sklearn", "torch", "matplotlib"}
print(sorted(roots & others))
print(sorted(name for name in sys.modules
             if name.startswith("jaxprune.") and not name.startswith("jaxprune.optim")
             and name != "jaxprune.version"))
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert out.stdout.splitlines() == ["[]", "[]"]


def test_every_name_of_the_table_of_contents_exists():
    from jaxprune import optim

    for module in (optim, optim.prox):
        for name in module.__all__:
            assert callable(getattr(module, name)) or name in ("prox", "FLAX_HEADS"), name
