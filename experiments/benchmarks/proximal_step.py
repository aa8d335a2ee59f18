"""What the proximal step costs: one step of an optimizer on 100 million parameters.

    python experiments/benchmarks/proximal_step.py

Each optimizer's update and ``optax.apply_updates`` are one compiled function with donated
parameters and state, as in a training loop. The optimizers take turns, so that a machine that slows
down slows all of them, and each round compares them with ``optax.adam`` of the same round. Writes
``experiments/results/proximal_step/<device>.json``.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import optax

from jaxprune.optim import fista, prox, proximal_adam, proximal_sgd

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results" / "proximal_step"

rate, strength = 1e-3, 1e-4
columns = functools.partial(prox.group_l2, axis=0)

OPTIMIZERS = {
    "optax.adam": optax.adam(rate),
    "proximal_adam(l1)": proximal_adam(rate, prox.l1, strength),
    "proximal_adam(l1, scaled=False)": proximal_adam(rate, prox.l1, strength, scaled=False),
    "proximal_adam(elastic_net)": proximal_adam(rate, prox.elastic_net, strength),
    "proximal_adam(group_l2, scaled=False)": proximal_adam(rate, columns, strength, scaled=False),
    "proximal_adam(group_l2)": proximal_adam(rate, columns, strength),
    "optax.sgd": optax.sgd(rate),
    "proximal_sgd(l1)": proximal_sgd(rate, prox.l1, strength),
    "fista(l1)": fista(prox.l1, strength, rate),
}


def make_step(optimizer: optax.GradientTransformation):
    """The compiled step of a training loop, without the loss."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return step


def start(leaves: int, rows: int, columns: int, seed: int) -> list[jax.Array]:
    """Random matrices."""
    keys = jax.random.split(jax.random.key(seed), leaves)
    return [jax.jit(jax.random.normal, static_argnums=1)(key, (rows, columns)) for key in keys]


def main() -> None:
    """Times every optimizer and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leaves", type=int, default=25, help="matrices of 2000 x 2000")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="steps per optimizer and round")
    arguments = parser.parse_args()

    gradients = start(arguments.leaves, 2000, 2000, seed=1)
    count = sum(g.size for g in gradients)
    steps = {name: make_step(optimizer) for name, optimizer in OPTIMIZERS.items()}
    seconds = {name: [] for name in OPTIMIZERS}
    for round_ in range(arguments.rounds + 1):
        for name, step in steps.items():
            # One optimizer's state at a time: nine of them would not fit a small machine.
            params = start(arguments.leaves, 2000, 2000, seed=0)
            state = OPTIMIZERS[name].init(params)
            params, state = jax.block_until_ready(step(params, state, gradients))
            begin = time.perf_counter()
            for _ in range(arguments.steps):
                params, state = step(params, state, gradients)
            jax.block_until_ready((params, state))
            if round_ > 0:  # the first one compiles
                seconds[name].append((time.perf_counter() - begin) / arguments.steps)
            del params, state

    rows = []
    for name in OPTIMIZERS:
        ratios = [
            mine / adam for mine, adam in zip(seconds[name], seconds["optax.adam"], strict=True)
        ]
        rows.append(
            {
                "optimizer": name,
                "milliseconds_median": round(1e3 * statistics.median(seconds[name]), 2),
                "milliseconds_min": round(1e3 * min(seconds[name]), 2),
                "ratio_to_adam_median": round(statistics.median(ratios), 3),
            }
        )
        print(
            f"{name:40s} {rows[-1]['milliseconds_median']:9.1f} ms "
            f"{rows[-1]['ratio_to_adam_median']:6.2f} x optax.adam"
        )

    device = jax.devices()[0]
    report = {
        "command": "python " + " ".join(["experiments/benchmarks/proximal_step.py", *sys.argv[1:]]),
        "device": device.device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[1], 1),  # of five minutes; above 1, others work too
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "optax": optax.__version__,
        },
        "parameters": count,
        "dtype": str(jnp.result_type(gradients[0])),
        "rounds": arguments.rounds,
        "steps_per_round": arguments.steps,
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{device.platform}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
