"""`jaxprune.optim` beside torchao's PAT, JAXopt and plain PyTorch: the same problems in each.

    python experiments/optim_beside.py

Needs the extra `bench`; rows of torchao are written where it is installed. Two problems: a group
lasso with one solution, whose conditions are checked in float64, and a small network on the digits
that must lose three quarters of its hidden units. All start from the same weights, see the same
batches, and take the same steps. Writes ``experiments/results/optim_beside``.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from importlib import metadata

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optax
import torch
from sklearn.datasets import load_digits

from jaxprune.optim import (
    fista,
    fista_eval_params,
    healing,
    prox,
    proximal,
    proximal_adam,
    proximal_sgd,
    ramp,
)

RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "optim_beside"
GROUPS, SIZE, SAMPLES = 40, 5, 400
GROUP_STRENGTH = 0.35
"""Of the group lasso, per root of a group's size."""
WIDTHS = (64, 64, 64, 10)
LOST = 0.75
"""The part of the hidden units that goes."""
STEPS, WARM_UP, HEAL = 600, 100, 400
RATE, MOMENTUM, BATCH = 0.02, 0.9, 100
UNIT_STRENGTH = 4e-3
"""Of the group lasso of the network, per root of a group's size."""

try:
    from torchao.prototype.pat.optim import PruneOptimizer
except ImportError:
    PruneOptimizer = None


# -- a group lasso ---------------------------------------------------------------------------------


def regression():
    """Correlated features, six of forty groups used."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, GROUPS * SIZE)) + 0.5 * rng.normal(size=(SAMPLES, 1))
    truth = np.zeros((GROUPS, SIZE))
    truth[:6] = rng.normal(size=(6, SIZE))
    y = x @ truth.reshape(-1) + rng.normal(size=SAMPLES)
    return x, y, 1.0 / np.linalg.eigvalsh(x.T @ x / SAMPLES)[-1]


def penalty(w):
    """Of weights `[groups, size]`."""
    return GROUP_STRENGTH * np.sqrt(SIZE) * np.linalg.norm(w, axis=1).sum()


def solution(x, y, step):
    """The minimiser, in float64 by proximal gradient steps, and how far its conditions are off."""
    w = np.zeros((GROUPS, SIZE))
    threshold = GROUP_STRENGTH * np.sqrt(SIZE)

    def slope(w):
        return (x.T @ (x @ w.reshape(-1) - y) / SAMPLES).reshape(w.shape)

    for _ in range(20_000):
        ahead = w - step * slope(w)
        norm = np.linalg.norm(ahead, axis=1, keepdims=True)
        w = ahead * np.maximum(1 - step * threshold / np.maximum(norm, 1e-300), 0)
    norm = np.linalg.norm(w, axis=1, keepdims=True)
    alive = norm[:, 0] > 0
    gradient = slope(w)
    inside = np.linalg.norm(gradient[~alive], axis=1).max() - threshold
    outside = abs(gradient[alive] + threshold * w[alive] / norm[alive]).max()
    return w, max(inside, outside)


def with_optax(make, steps, x, y):
    """Weights after steps of one of our optimizers."""
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    optimizer = make()
    slope = jax.grad(lambda w: 0.5 * jnp.mean((x @ w.reshape(-1) - y) ** 2))

    @jax.jit
    def run(w):
        def body(carry, _):
            w, state = carry
            updates, state = optimizer.update(slope(w), state, w)
            return (optax.apply_updates(w, updates), state), None

        return jax.lax.scan(body, (w, optimizer.init(w)), length=steps)[0]

    w, state = run(jnp.zeros((GROUPS, SIZE)))
    return fista_eval_params(state, w) if "FistaState" in str(type(state)) else w


def with_jaxopt(steps, x, y, step, acceleration):
    """The same of JAXopt's proximal gradient."""
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    solver = jaxopt.ProximalGradient(
        lambda w: 0.5 * jnp.mean((x @ w.reshape(-1) - y) ** 2),
        jax.vmap(jaxopt.prox.prox_group_lasso, (0, None, None)),
        stepsize=step,
        maxiter=steps,
        tol=0.0,
        acceleration=acceleration,
    )
    start = jnp.zeros((GROUPS, SIZE))
    return solver.run(start, hyperparams_prox=GROUP_STRENGTH * np.sqrt(SIZE)).params


def with_torch(steps, x, y, step, kind):
    """The same of PyTorch: the penalty in the loss, a proximal step by hand, or PAT."""
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    w = torch.nn.Parameter(torch.zeros(GROUPS, SIZE))
    threshold = GROUP_STRENGTH * SIZE**0.5
    optimizer = torch.optim.SGD([w], lr=step)
    if kind == "PAT":
        group = {"params": [w], "group_type": "Dim0Grouper", "prox_type": "ProxGroupLasso"}
        optimizer = PruneOptimizer(torch.optim.SGD([group], lr=step), reg_lambda=GROUP_STRENGTH)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 0.5 * ((x @ w.reshape(-1) - y) ** 2).mean()
        if kind == "loss":
            loss = loss + threshold * (w.square().sum(1) + 1e-12).sqrt().sum()
        loss.backward()
        optimizer.step()
        if kind == "prox":
            with torch.no_grad():
                norm = w.norm(dim=1, keepdim=True).clamp_min(1e-30)
                w.mul_((1 - step * threshold / norm).clamp_min(0))
    return w.detach().numpy()


def lasso_rows(steps):
    """What each has after so many steps of the same length."""
    x, y, step = regression()
    best, off = solution(x, y, step)

    def objective(w):
        return 0.5 * ((x @ w.reshape(-1) - y) ** 2).mean() + penalty(w)

    rows = functools.partial(prox.group_l2, axis=1)
    strength = GROUP_STRENGTH * SIZE**0.5
    adam_rate = optax.cosine_decay_schedule(0.05, steps)
    runs = {
        "jaxprune: proximal_sgd": lambda: with_optax(
            lambda: proximal_sgd(step, rows, strength), steps, x, y
        ),
        "jaxprune: fista": lambda: with_optax(lambda: fista(rows, strength, step), steps, x, y),
        "jaxprune: proximal_adam (scaled)": lambda: with_optax(
            lambda: proximal_adam(adam_rate, rows, strength, b2=0.99), steps, x, y
        ),
        "JAXopt: ProximalGradient": lambda: with_jaxopt(steps, x, y, step, False),
        "JAXopt: ProximalGradient, accelerated": lambda: with_jaxopt(steps, x, y, step, True),
        "PyTorch: SGD, penalty in the loss": lambda: with_torch(steps, x, y, step, "loss"),
        "PyTorch: SGD, proximal step by hand": lambda: with_torch(steps, x, y, step, "prox"),
    }
    if PruneOptimizer:
        runs["torchao: PruneOptimizer(SGD), ProxGroupLasso"] = lambda: with_torch(
            steps, x, y, step, "PAT"
        )
    found = []
    for name, run in runs.items():
        start = time.perf_counter()
        w = np.asarray(run(), np.float64)
        seconds = time.perf_counter() - start
        zero, wanted = (~w.any(1), ~best.any(1))
        found.append(
            {
                "solver": name,
                "excess": float(objective(w) / objective(best) - 1),
                "zero_groups": int(zero.sum()),
                "wrong_groups": int((zero != wanted).sum()),
                "seconds": round(seconds, 2),
            }
        )
        print(found[-1])
    return {"steps": steps, "zero_groups": int((~best.any(1)).sum()), "off": off, "rows": found}


# -- a network -------------------------------------------------------------------------------------


@functools.cache
def digits():
    """Training and test images in [0, 1], and their labels."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order].astype(np.float32) / 16, data.target[order]
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


def start_of(seed):
    """Kernels `[in, out]` and the indices of all batches. Hidden layers have no bias."""
    rng = np.random.default_rng(seed)
    kernels = [
        (rng.normal(size=shape) * np.sqrt(2 / shape[0])).astype(np.float32)
        for shape in itertools.pairwise(WIDTHS)
    ]
    batches = np.stack([rng.permutation(1200)[:BATCH] for _ in range(STEPS)])
    return kernels, batches


def accuracy(kernels):
    """On the test images, and the number of hidden units without weights."""
    (_, _), (x, y) = digits()
    hidden = x
    for kernel in kernels[:-1]:
        hidden = np.maximum(hidden @ kernel, 0)
    zero = sum(int((~kernel.any(0)).sum()) for kernel in kernels[:-1])
    return float(((hidden @ kernels[-1]).argmax(1) == y).mean()), zero


def network_with_optax(make, seed, at_end):
    """The kernels after training by one of our optimizers; hidden kernels alone are shrunk."""
    kernels, batches = start_of(seed)
    (x, y), _ = digits()
    optimizer = make()
    x, labels = jnp.asarray(x), jax.nn.one_hot(y, 10)

    def loss(params, index):
        hidden = x[index]
        for name in ("0", "1"):
            hidden = jax.nn.relu(hidden @ params["hidden"][name])
        return optax.softmax_cross_entropy(hidden @ params["out"], labels[index]).mean()

    @jax.jit
    def run(params):
        def body(carry, index):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, index), state, params)
            return (optax.apply_updates(params, updates), state), None

        start = params, optimizer.init(params)
        return jax.lax.scan(body, start, jnp.asarray(batches))[0][0]

    params = run({"hidden": {"0": kernels[0], "1": kernels[1]}, "out": kernels[2]})
    if at_end:
        params["hidden"] = prox.joint_sparsity(params["hidden"], LOST, normalize=True)
    return [np.asarray(params["hidden"]["0"]), np.asarray(params["hidden"]["1"]), params["out"]]


def hidden_only(*transforms):
    """SGD with momentum for all, and then these for the hidden kernels."""
    masked = optax.masked(optax.chain(*transforms), {"hidden": True, "out": False})
    return optax.chain(optax.sgd(RATE, MOMENTUM), masked)


def group_lasso(schedule):
    """The proximal step of the units' group lasso, each weighted by the root of its size."""

    def columns(x, strength, step):
        roots = jax.tree.map(lambda leaf: strength * np.sqrt(len(leaf)), x)
        return prox.group_l2(x, roots, step, axis=0)

    return proximal(columns, schedule, RATE / (1 - MOMENTUM))


def network_with_torch(seed, at_end, config, **phases):
    """The same by PyTorch, with PAT where a config is given."""
    kernels, batches = start_of(seed)
    (x, y), _ = digits()
    x, y = torch.tensor(x), torch.tensor(y)
    weights = [torch.nn.Parameter(torch.tensor(kernel.T.copy())) for kernel in kernels]
    groups = [{"params": weights[:2], **config}, {"params": weights[2:]}]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM)
    if config:
        optimizer = PruneOptimizer(optimizer, **phases)
    for index in batches:
        optimizer.zero_grad()
        hidden = x[index]
        for weight in weights[:2]:
            hidden = torch.relu(hidden @ weight.T)
        torch.nn.functional.cross_entropy(hidden @ weights[2].T, y[index]).backward()
        optimizer.step()
    found = [weight.detach().numpy().T for weight in weights]
    if at_end:
        kept = prox.joint_sparsity(found[:2], LOST, normalize=True)
        found = [*map(np.asarray, kept), found[2]]
    return found


def network_rows(seeds):
    """Test accuracy of each way to lose the same part of the hidden units."""
    joint = functools.partial(prox.joint_sparsity, normalize=True)
    once = lambda count: jnp.where(count == HEAL - 1, LOST, 0.0)  # noqa: E731
    ways = {
        "jaxprune: nothing removed": (lambda: optax.sgd(RATE, MOMENTUM), False),
        "jaxprune: all removed at the end": (lambda: optax.sgd(RATE, MOMENTUM), True),
        "jaxprune: group lasso throughout, the rest removed at the end": (
            lambda: hidden_only(group_lasso(UNIT_STRENGTH)),
            True,
        ),
        "jaxprune: group lasso with warm-up and ramp, the rest removed, healing": (
            lambda: hidden_only(
                group_lasso(ramp(WARM_UP, 2 * WARM_UP, UNIT_STRENGTH, until=HEAL)),
                proximal(joint, once, RATE),
                healing(HEAL),
            ),
            False,
        ),
        "jaxprune: joint sparsity with warm-up and ramp, healing": (
            lambda: hidden_only(
                proximal(joint, ramp(WARM_UP, HEAL - 1, LOST, until=HEAL), RATE), healing(HEAL)
            ),
            False,
        ),
    }
    runs = {
        name: functools.partial(network_with_optax, make, at_end=at_end)
        for name, (make, at_end) in ways.items()
    }
    runs["PyTorch: nothing removed"] = functools.partial(
        network_with_torch, at_end=False, config={}
    )
    if PruneOptimizer:
        runs["torchao: ProxGroupLasso throughout, the rest removed at the end"] = functools.partial(
            network_with_torch,
            at_end=True,
            config={"group_type": "Dim0Grouper", "prox_type": "ProxGroupLasso"},
            # Its threshold does not grow with the momentum's steps.
            reg_lambda=UNIT_STRENGTH / (1 - MOMENTUM),
        )
        runs["torchao: GlobalMinSparsityConstraint with warm-up and ramp, healing"] = (
            functools.partial(
                network_with_torch,
                at_end=False,
                config={
                    "group_type": "Dim0Grouper",
                    "prox_type": "GlobalMinSparsityConstraint",
                    "min_sparsity": LOST,
                    "min_sparsity_schedule": True,
                },
                warmup_steps=WARM_UP,
                healing_start_step=HEAL,
            )
        )
    found = []
    for name, run in runs.items():
        start = time.perf_counter()
        results = [accuracy(run(seed=seed)) for seed in range(seeds)]
        accuracies = [result for result, _ in results]
        found.append(
            {
                "way": name,
                "accuracy": statistics.mean(accuracies),
                "deviation": statistics.stdev(accuracies),
                "zero_units": [zero for _, zero in results],
                "seconds": round((time.perf_counter() - start) / seeds, 2),
            }
        )
        print(found[-1])
    return {"seeds": seeds, "units": sum(WIDTHS[1:-1]), "rows": found}


# -- the page --------------------------------------------------------------------------------------


def page(report):
    """The report in Markdown."""
    lasso, network = report["lasso"], report["network"]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        "# `jaxprune.optim` beside torchao's PAT, JAXopt and plain PyTorch",
        "",
        f"`{report['command']}`, {report['device']}; {versions}. Seconds contain compiling.",
        "",
        "## A group lasso",
        "",
        f"{GROUPS} groups of {SIZE} weights, {SAMPLES} examples; at the solution "
        f"{lasso['zero_groups']} groups are zero (its conditions hold to {lasso['off']:.0e}). "
        f"{lasso['steps']} steps of length 1 / L on full gradients, Adam's of a cosine from 0.05.",
        "",
        "| solver | objective above the least | zero groups | groups wrong | seconds |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['solver']} | {row['excess']:.1e} | {row['zero_groups']} | "
        f"{row['wrong_groups']} | {row['seconds']} |"
        for row in lasso["rows"]
    ]
    lines += [
        "",
        "A penalty in the loss makes no zeros. PAT keeps the weights before the proximal step, "
        "and shrinks by the sum of all steps so far: dual averaging, another way to the same "
        "solution.",
        "",
        "## A network that loses three quarters of its hidden units",
        "",
        f"{'-'.join(map(str, WIDTHS))} on scikit-learn's digits (1,200 images, 597 for the test), "
        f"SGD with momentum, {STEPS} steps of {BATCH} images. A unit is what enters it. Warm-up "
        f"ends at step {WARM_UP}, healing begins at {HEAL}; units are compared by the root mean "
        f"square of their weights, over both layers. Mean and sample standard deviation of "
        f"{network['seeds']} seeds. Nothing is tuned but the strength of the group lasso, once, "
        "so that ours alone removes nearly as many; PAT, whose threshold leaves momentum out, gets "
        "ten times as much.",
        "",
        f"| way | test accuracy | zero units of {network['units']} | seconds |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['way']} | {100 * row['accuracy']:.2f} ± {100 * row['deviation']:.2f} | "
        f"{', '.join(map(str, row['zero_units']))} | {row['seconds']} |"
        for row in network["rows"]
    ]
    lines += [
        "",
        "## What only one of them has",
        "",
        "- `jaxprune.optim`: exact steps in Adam's metric, FISTA with restarts, l0, MCP, SCAD, "
        "exclusive and sparse group penalties, whole heads of attention as groups, Lagrange "
        "multipliers; transforms of optax, compiled with the rest of a step.",
        "- PAT: latent weights, groups by singular values, N:M patterns, distributed tensors, a "
        "frequency of proximal steps.",
        "- JAXopt: line search, implicit differentiation of solutions; no longer developed.",
        "" if PruneOptimizer else "\ntorchao was not installed: its rows were not run.\n",
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Solves both problems and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="of the group lasso")
    parser.add_argument("--seeds", type=int, default=3, help="of the network, at least 2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are small
    packages = ["jax", "optax", "jaxopt", "torch", *(["torchao"] if PruneOptimizer else [])]
    report = {
        "command": " ".join(["python experiments/optim_beside.py", *sys.argv[1:]]),
        "device": f"{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores",
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "lasso": lasso_rows(arguments.steps),
        "network": network_rows(arguments.seeds),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "README.md").write_text(page(report))
    (RESULTS / "rows.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
