"""What speed pages have in common: how it was measured, what the machine can do, where pages go."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

RESULTS = Path(__file__).parents[1] / "results"
PACKAGES = ("jax", "jaxlib", "numpy", "torch")


def several(text: str) -> int:
    """How often something is measured, as an option's type: quartiles need two measurements."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 2")
    return int(text)


def in_child(
    script: str, words: Sequence[object], environment: Mapping[str, str] | None = None
) -> Any:
    """What a script prints last, as JSON, in a process of its own.

    Args:
        script: its file.
        words: its options.
        environment: variables that are set besides those of this process.
    """
    done = subprocess.run(
        [sys.executable, script, *map(str, words)],
        env={**os.environ, **(environment or {})},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def circumstances(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """The command, the device, PyTorch's threads and the versions of packages."""
    import torch  # of the extra bench; what needs no circumstances works without

    cores = len(os.sched_getaffinity(0))
    script = f"experiments/benchmarks/{Path(sys.argv[0]).name}"
    return {
        "command": " ".join(["python", script, *sys.argv[1:]]),
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}, {cores} cores allowed",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in packages},
    }


def peak_rate(size: int = 1024, repeats: int = 20) -> float:
    """Multiply-adds a second of a large matrix product in float32, the best of several."""
    a = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(product(a, a))
        times.append(time.perf_counter() - started)
    return size**3 / min(times)


def in_words(about: dict[str, Any]) -> str:
    """The circumstances in one line of Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return (
        f"`{about['command']}`, {about['device']}, PyTorch with {about['threads']} threads, "
        f"{versions}."
    )


def device_name() -> str:
    """The kind of the device, as the names of pages have it."""
    return jax.devices()[0].device_kind.lower().replace(" ", "_")


def write(name: str, text: str, content: dict[str, Any]) -> None:
    """Prints a page and writes it, and what it was made of as JSON, by the name of the device."""
    print(text)
    for kind, written in ((".md", text), (".json", json.dumps(content, indent=1) + "\n")):
        path = place(name, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written)


def place(name: str, kind: str) -> Path:
    """Where a benchmark's page, picture or figures lie: a folder each, a file for each device."""
    return RESULTS / name / f"{device_name()}{kind}"
