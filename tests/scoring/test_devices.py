"""Work divided among devices: the numbers of one, in one process and in two."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxprune
from jaxprune.commands.run.command import main
from jaxprune.errors import UserError
from jaxprune.scoring import devices


def python(words, *, count):
    """A Python process in which a CPU passes for so many devices."""
    path = ":".join(path for path in sys.path if path)
    flags = f"--xla_force_host_platform_device_count={count}"
    environment = {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    return out


SCRIPT = """
import json, re
import jax, jax.numpy as jnp, numpy as np
import jaxprune
from jaxprune import training
from jaxprune.networks import bundled
from jaxprune.scoring import devices
from jaxprune.training import data
from jaxprune.scoring.evaluation import evaluate

digits = data.load("digits")
part = data.Split(digits.train.images[:256], digits.train.labels[:256])
network = bundled.build("cnn", (8, 8, 1))
prepare = data.preprocess(digits, network.flat)
x, y = prepare(jnp.asarray(part.images[:64])), jnp.asarray(part.labels[:64])
variables = network.init(jax.random.key(0))
structure = jaxprune.trace(network.apply, variables, x)
rng = np.random.default_rng(0)
masks = jnp.asarray(rng.integers(0, 2, (13, structure.num_channels)), jnp.float32)
masked = jaxprune.masked(network.apply, structure)
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, **__: compiled.append(name) if name.endswith("backend_compile_duration") else 0
)

def measured(count):
    mesh = devices.make_mesh(count)
    scores = evaluate(masked, variables, structure.unflatten(masks), x, y, mesh=mesh)
    recipe = training.Recipe(epochs=3, batch_size=64, augment="shift")
    fitted, history = training.fit(
        network.apply_train, variables, part, prepare, recipe, jax.random.key(1), mesh=mesh)
    short = training.Recipe(epochs=1, batch_size=64)
    pair = structure.unflatten(masks[:2])
    tuned = training.finetune_many(
        jaxprune.masked(network.apply_train, structure), variables, pair, part, prepare, short,
        jax.random.key(2), at_once=2, mesh=mesh)
    leaves = [*jax.tree.leaves(fitted), *jax.tree.leaves(tuned), *scores, *history]
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves((fitted, tuned)))
    return [np.asarray(leaf) for leaf in leaves]

one = measured(1)
for left, right in zip(one, measured(8), strict=True):
    np.testing.assert_allclose(left, right, rtol=2e-3, atol=2e-4)

# The program of a device scores an eighth of the candidates.
mesh = devices.make_mesh(8)
sixteen = structure.unflatten(jnp.ones((16, structure.num_channels)))
counts = []
for given in (None, mesh):
    program = evaluate.lower(masked, variables, sixteen, x, y, chunk=1, mesh=given).compile()
    trips = re.findall(r'"known_trip_count":{"n":"(\\d+)"', program.as_text())
    counts.append(max(map(int, trips)))

# Nothing is compiled again for other masks.
evaluate(masked, variables, sixteen, x, y, mesh=mesh)
before = len(compiled)
evaluate(masked, variables, sixteen, x, y, mesh=mesh)
print(json.dumps({"devices": len(jax.devices()), "trips": counts, "again": len(compiled) - before}))
"""


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    said = json.loads(finished(python(["-c", SCRIPT], count=8)).splitlines()[-1])
    assert said == {"devices": 8, "trips": [16, 2], "again": 0}


def test_devices_that_are_not_there_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match=r"--devices 3: JAX sees 1 \(cpu\).*count=3"):
        devices.make_mesh(3)
    assert devices.make_mesh(1) is None
    assert main(["--method", "random", "--devices", "3", "--out", str(tmp_path / "run")]) == 2
    assert "JAX sees 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--processes", "2"], "needs --coordinator"),
        (["--coordinator", "auto", "--process", "0"], "finds out by itself"),
        (["--coordinator", "here:1"], "needs --processes and --process"),
        (["--coordinator", "here:1", "--processes", "2", "--process", "2"], "below --processes 2"),
        (
            ["--coordinator", "auto", "--cost", "latency", "--budget", "50%"],
            "--cost latency is measured",
        ),
        (["--coordinator", "auto", "--method", "crl", "--search.seconds", "9"], "--search.seconds"),
    ],
)
def test_options_of_several_hosts_that_do_not_fit_are_refused(words, says, capsys):
    method = [] if "--method" in words else ["--method", "random"]
    assert main([*method, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


RUN = [
    *("-m", "jaxprune.run", "--method", "crl", "--model", "lenet300", "--examples", "100"),
    *("--pretrain-epochs", "2", "--finetune-epochs", "2", "--search-examples", "64"),
    *("--search.iterations", "2", "--search.episodes", "4", "--budget", "0.5"),
    *("--semifinalists", "3", "--semifinal-steps", "4", "--finalists", "2"),
]


def assert_alike(one, other):
    """Two runs found the same network, up to the order of sums."""
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    widths = [result["pruned"]["widths"] for result in results]
    assert widths[0] == widths[1]
    networks = (jaxprune.load(folder).params for folder in (one, other))
    for left, right in zip(*map(jax.tree.leaves, networks), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_run_on_eight_devices_and_on_two_hosts(tmp_path):
    def words(name):
        return [*RUN, "--out", str(tmp_path / name), "--cache-dir", str(tmp_path / f"{name}.cache")]

    finished(python(words("one"), count=1))
    finished(python(words("eight"), count=8))
    assert_alike(tmp_path / "one", tmp_path / "eight")

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    among = ["--coordinator", f"localhost:{port}", "--processes", "2", "--process"]
    hosts = [python([*words("two"), *among, str(process)], count=2) for process in (0, 1)]
    try:
        shown = [finished(host) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert "4 devices" in shown[0]
    own = [line for line in shown[1].splitlines() if "[Gloo]" not in line]  # jaxlib's on CPUs
    assert own == []
    assert_alike(tmp_path / "one", tmp_path / "two")
