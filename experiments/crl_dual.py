"""What moves the multiplier: projected ascent or a PID controller.

    python experiments/crl_dual.py [--seeds 0 1 2 3 4] [--iterations 80]

The policy of CRL prunes the digits network to 25 % of its multiply-adds and to 10 % of its
parameters, once with each dual step at the same integral gain, everything else at its default. The
table says how near the mean cost of a round stays to the budget once half of the search is over,
how often a round of that half exceeds it by more than a tenth, how many episodes meet it, and how
good the best network is before fine-tuning. Writes
`experiments/results/crl_dual/README.md` and a picture of the first seed.
"""

import argparse
import platform
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rows import spread, table

from jaxprune import make_problem, trace, training
from jaxprune.networks import bundled
from jaxprune.search.agents import ppo_lagrangian
from jaxprune.search.problem import best
from jaxprune.training import data

RESULTS = Path(__file__).parent / "results" / "crl_dual"
BUDGETS = (("macs", 0.25), ("params", 0.1))
DUALS = ("ascent", "pid")


def problems(seed):
    """The pruning problems of one trained network, as the command poses them."""
    digits = data.load("digits")
    network = bundled.build("cnn", digits.train.images.shape[1:])
    preprocess = data.preprocess(digits, network.flat)
    recipe = training.default_recipe("cnn", "digits")
    variables = training.pretrained(network, digits, recipe, seed, None)
    structure = trace(network.apply, variables, preprocess(jnp.asarray(digits.train.images[:1])))

    def batch(split):
        _, part = split.divide(min(1024, len(split.labels)), seed)
        return preprocess(jnp.asarray(part.images)), jnp.asarray(part.labels)

    for cost, budget in BUDGETS:
        yield make_problem(
            lambda variables, x: network.apply_train(variables, x)[0],
            structure,
            variables,
            batch(digits.train),
            batch(digits.validation),
            cost=cost,
            budget=budget,
        )


def search(problem, dual, seed, iterations):
    """The lines of a search, and the validation accuracy of its best network."""
    lines = []
    config = ppo_lagrangian.Config(iterations=iterations, dual=dual)
    found = ppo_lagrangian.search(
        config, problem, jax.random.PRNGKey(seed), progress=lambda _, line: lines.append(line)
    )
    return lines, found.archive.validation[best(found.archive, problem.budget)]


def numbers(lines, accuracy):
    """What the table says of one search."""
    late = lines[len(lines) // 2 :]
    parts = np.array([line["cost"][0] / line["limit"][0] for line in late])
    return (
        100 * np.abs(parts - 1).mean(),
        100 * (parts > 1.1).mean(),
        100 * np.mean([line["feasible"] for line in late]),
        100 * float(accuracy),
    )


def picture(curves):
    """Cost and multiplier of the first seed, one row for each budget."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots(len(BUDGETS), 2, sharex=True)
    colours = dict(zip(DUALS, ("#d9480f", "#0b7285"), strict=True))
    for (left, right), (cost, budget) in zip(axes, BUDGETS, strict=True):
        for dual in DUALS:
            lines = curves[cost, dual]
            rounds = [line["iteration"] for line in lines]
            left.plot(rounds, [line["cost"][0] for line in lines], color=colours[dual], label=dual)
            right.plot(rounds, [line["multiplier"][0] for line in lines], color=colours[dual])
        left.axhline(budget, color="#1f2933", lw=1, ls="--")
        left.set_title(f"{cost} left of the dense network's, budget {budget:g}", fontsize=9)
        right.set_title("multiplier", fontsize=9)
        for each in (left, right):
            each.spines[["top", "right"]].set_visible(False)
            each.tick_params(labelsize=8)
    axes[0][0].legend(frameon=False, fontsize=8)
    for each in axes[-1]:
        each.set_xlabel("round", fontsize=9)
    return figure


def main():
    """Searches, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--iterations", type=int, default=80)
    options = parser.parse_args()
    found, curves = {}, {}
    for seed in options.seeds:
        for problem, (cost, _) in zip(problems(seed), BUDGETS, strict=True):
            for dual in DUALS:
                lines, accuracy = search(problem, dual, seed, options.iterations)
                found.setdefault((cost, dual), []).append(numbers(lines, accuracy))
                curves.setdefault((cost, dual), lines)
    lines = [
        [f"{cost} {budget:.0%}, {dual}", *(spread(column, 1) for column in zip(*rows, strict=True))]
        for cost, budget in BUDGETS
        for dual in DUALS
        for rows in [found[cost, dual]]
    ]
    header = (
        "budget, dual step",
        "distance from the budget, %",
        "rounds above 1.1 times, %",
        "episodes within, %",
        "best accuracy before fine-tuning, %",
    )
    command = " ".join(["python experiments/crl_dual.py", *sys.argv[1:]])
    text = "\n".join(
        [
            "# Projected ascent and PID",
            "",
            f"`{command}`: {len(options.seeds)} seeds, {options.iterations} rounds,",
            f"{jax.devices()[0].device_kind}, jax {jax.__version__}, Python "
            f"{platform.python_version()}. The second half of each search; mean and sample",
            "deviation over the seeds.",
            "",
            table(header, lines),
            "",
            "![Cost and multiplier of the first seed](curves.png)",
            "",
        ]
    )
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    picture(curves).savefig(RESULTS / "curves.png", dpi=144)
    (RESULTS / "README.md").write_text(text)


if __name__ == "__main__":
    main()
