"""One lasso, solved to the same objective by jaxprune.optim and by JAXopt's proximal gradient.

    python experiments/benchmarks/proximal_lasso.py

Needs the extra `bench`. Both are given the same loss, step 1 / L and start. First each one's
iterations to an objective within 1e-6 of scikit-learn's are counted; then a compiled run of that
many iterations is timed, the solvers taking turns. Writes
``experiments/results/proximal_lasso/<device>.json``.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optax
import sklearn
from sklearn.linear_model import Lasso

from jaxprune.optim import fista, prox, proximal_sgd

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results" / "proximal_lasso"


def make_problem(samples: int, features: int):
    """Correlated features, 5 % of them used; strength a twentieth of the one that zeroes all."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, features))
    x = x + 0.7 * np.roll(x, 1, axis=1) + 0.5 * rng.normal(size=(samples, 1))
    truth = np.where(rng.random(features) < 0.05, rng.normal(size=features), 0.0)
    y = x @ truth + 0.5 * rng.normal(size=samples)
    strength = 0.05 * np.abs(x.T @ y / samples).max()
    step = 1.0 / np.linalg.eigvalsh(x.T @ x / samples)[-1]
    return x, y, float(strength), float(step)


def ours(optimizer, gradient, answer):
    """Compiled run of a number of iterations; with ``trace``, every iterate."""

    def run(start, iterations, trace):
        def body(carry, _):
            params, state = carry
            updates, state = optimizer.update(gradient(params), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), answer(params, state) if trace else None

        carry = (start, optimizer.init(start))
        (params, state), path = jax.lax.scan(body, carry, length=iterations)
        return path if trace else answer(params, state)

    return jax.jit(run, static_argnums=(1, 2))


def theirs(loss, strength, step, acceleration):
    """The same for JAXopt: its own loop for the time, its own step for the iterates."""

    def run(start, iterations, trace):
        solver = jaxopt.ProximalGradient(
            loss,
            jaxopt.prox.prox_lasso,
            stepsize=step,
            maxiter=iterations,
            tol=0.0,
            acceleration=acceleration,
        )
        if not trace:
            return solver.run(start, hyperparams_prox=strength).params

        def body(carry, _):
            carry = solver.update(*carry, hyperparams_prox=strength)
            return tuple(carry), carry.params

        carry = (start, solver.init_state(start, hyperparams_prox=strength))
        return jax.lax.scan(body, carry, length=iterations)[1]

    return jax.jit(run, static_argnums=(1, 2))


def main() -> None:
    """Counts, times and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--most", type=int, default=4000, help="iterations to look at")
    arguments = parser.parse_args()

    x, y, strength, step = make_problem(arguments.samples, arguments.features)
    x32, y32 = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)

    def loss(w):
        return 0.5 * jnp.mean((x32 @ w - y32) ** 2)

    def objective(w):
        w = np.asarray(w, np.float64)
        return 0.5 * np.mean((x @ w - y) ** 2) + strength * np.abs(w).sum()

    model = Lasso(alpha=strength, fit_intercept=False, tol=1e-12, max_iter=1_000_000).fit(x, y)
    best = objective(model.coef_)

    gradient = jax.grad(loss)
    solvers = {
        "proximal_sgd": ours(proximal_sgd(step, prox.l1, strength), gradient, lambda p, s: p),
        "jaxopt.ProximalGradient(acceleration=False)": theirs(loss, strength, step, False),
        "fista": ours(fista(prox.l1, strength, step), gradient, lambda p, s: s.iterate),
        "fista(restart='none')": ours(
            fista(prox.l1, strength, step, restart="none"), gradient, lambda p, s: s.iterate
        ),
        "jaxopt.ProximalGradient(acceleration=True)": theirs(loss, strength, step, True),
    }
    start = jnp.zeros(arguments.features)
    needed = {}
    for name, solver in solvers.items():
        path = np.asarray(solver(start, arguments.most, True), np.float64)
        residual = path @ x.T - y
        values = 0.5 * (residual**2).mean(1) + strength * np.abs(path).sum(1)
        reached = values <= best * (1 + 1e-6)
        if not reached.any():
            raise SystemExit(f"{name} did not reach the objective in {arguments.most} iterations")
        needed[name] = int(np.argmax(reached)) + 1
        jax.block_until_ready(solver(start, needed[name], False))

    seconds = {name: [] for name in solvers}
    solutions = {}
    for _ in range(arguments.rounds):
        for name, solver in solvers.items():
            begin = time.perf_counter()
            solutions[name] = jax.block_until_ready(solver(start, needed[name], False))
            seconds[name].append(time.perf_counter() - begin)

    rows = []
    for name, times in seconds.items():
        rows.append(
            {
                "solver": name,
                "iterations": needed[name],
                "milliseconds_median": round(1e3 * statistics.median(times), 2),
                "milliseconds_min": round(1e3 * min(times), 2),
                "microseconds_per_iteration": round(
                    1e6 * statistics.median(times) / needed[name], 1
                ),
                "excess_objective": float(objective(solutions[name]) / best - 1.0),
                "zero_pattern_differs_in": int(
                    np.sum((np.asarray(solutions[name]) == 0) != (model.coef_ == 0))
                ),
            }
        )
        print(
            f"{name:45s} {needed[name]:5d} iterations {rows[-1]['milliseconds_median']:8.1f} ms"
            f"   excess {rows[-1]['excess_objective']:.1e}"
        )
    device = jax.devices()[0]
    report = {
        "command": " ".join(["python experiments/benchmarks/proximal_lasso.py", *sys.argv[1:]]),
        "device": device.device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[1], 1),  # of five minutes; above 1, others work too
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "optax": optax.__version__,
            "jaxopt": importlib.metadata.version("jaxopt"),
            "scikit-learn": sklearn.__version__,
        },
        "samples": arguments.samples,
        "features": arguments.features,
        "nonzeros_of_the_optimum": int(np.sum(model.coef_ != 0)),
        "rounds": arguments.rounds,
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{device.platform}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
