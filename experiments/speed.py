"""Training images a second of bundled networks on CIFAR-10's images, on this device.

    python experiments/speed.py resnet20 vgg16

From a few steps on random images. Prints one line of JSON, and what the device is; with no network,
that alone.
"""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxprune.commands import huge_pages

RECIPE = {"cpu": "short"}
"""{kind of device: the recipe whose batches are measured}; others: the default one."""


class Device(NamedTuple):
    """A device.

    Attributes:
        platform: "cpu", "gpu" or "tpu".
        kind: What it is, in words.
        speed: {network: training images a second}, as far as it was measured.
    """

    platform: str
    kind: str
    speed: dict[str, float]


def known(runs: Path, models: Sequence[str] = ()) -> Device:
    """The device, and how fast it trains some networks; measured once in a folder.

    In processes of their own: this one must not take the device's memory.

    Args:
        runs: The folder; `device.json` in it has what was measured.
        models: What should be known.
    """
    path = runs / "device.json"
    now = _in_child([])
    before = Device(**json.loads(path.read_text())) if path.exists() else now
    found = before if before.kind == now.kind else now
    missing = [model for model in models if model not in found.speed]
    if missing:
        print(f"measuring how fast this device trains {', '.join(missing)}", file=sys.stderr)
        found = found._replace(speed={**found.speed, **_in_child(missing).speed})
    path.write_text(json.dumps(found._asdict(), indent=1) + "\n")
    return found


def _in_child(models: Sequence[str]) -> Device:
    command = [sys.executable, __file__, *models]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Device(**json.loads(done.stdout.splitlines()[-1]))


def measure(models: Sequence[str]) -> Device:
    """The device, and the speed of each network; takes the device."""
    import jax

    from jaxprune.commands import config

    platform = jax.default_backend()
    recipe = RECIPE.get(platform, "default")
    speed = {
        model: images_a_second(model, recipe, 2 if platform == "cpu" else 20) for model in models
    }
    return Device(platform, config.device(), speed)


def images_a_second(model: str, recipe_name: Any, steps: int) -> float:
    """How fast a network is trained, from three epochs of a few steps after a first one."""
    import jax
    import numpy as np

    from jaxprune import training
    from jaxprune.networks import bundled
    from jaxprune.training import data

    recipe = training.default_recipe(model, "cifar10", name=recipe_name)
    random = np.random.default_rng(0)
    count = steps * recipe.batch_size
    images = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
    split = data.Split(images, random.integers(0, 10, count).astype(np.int32))
    network = bundled.build(model, (32, 32, 3))
    moments: list[float] = []
    training.fit(
        *(network.apply_train, network.init(jax.random.key(0)), split),
        data.Preprocess((0.5,) * 3, (0.25,) * 3, network.flat),
        dataclasses.replace(recipe, epochs=4),
        jax.random.key(0),
        progress=lambda epoch, metrics: moments.append(time.monotonic()),
    )
    return count * (len(moments) - 1) / (moments[-1] - moments[0])


if __name__ == "__main__":
    huge_pages.begin_again()  # as the commands do that train
    print(json.dumps(measure(sys.argv[1:])._asdict()))
