"""Figures of the ACNN paper: losses and rewards of the search, beta, density and time, weights.

    python experiments/acnn_figures.py --runs /tmp/runs                     # what is missing, all
    python experiments/acnn_figures.py --runs /tmp/runs --rows beta-mnist   # some of the searches
    python experiments/acnn_figures.py                                      # the pictures alone

Figs. 3 and 5 (losses and rewards) and 7, 9 and 11 (density and time) are drawn from the rows of
`acnn_tables.py`. Fig. 4 has searches of its own: the paper's agent, which has the reward alone to
hold its compression, with several weights beta of the compression; shown is the network that the
actor makes at the end without exploration, before fine-tuning. Figs. 12 and 13 (weights before and
after) need the folder of the run that they show. Writes page, pictures and Fig. 4's searches to
`experiments/results/acnn_figures/`.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import acnn_tables
import jax
import jax.numpy as jnp
import numpy as np
from acnn_paper import CASES, neurons_allowed
from acnn_tables import BASELINES, COLOURS, METHODS, SEEDS, paper_ncr, points, row, runs
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rows import NOT_RUN, RESULTS, add, curves, lines, parser, spread, table

import jaxprune
from jaxprune import training
from jaxprune.commands.config import RunConfig, resolve, versions
from jaxprune.commands.run import job as jobs
from jaxprune.search import methods
from jaxprune.search.agents import acnn
from jaxprune.search.problem import Problem

OUT = RESULTS / "acnn_figures"
BETAS = (0.1, 0.3, 1.0, 1.5, 2.0, 3.0)
BETA_SEEDS = (0, 1, 2)
EXPECTED = 10.0
"""The NCR that Fig. 4's rewards expect: above those of the tables, which leaves room to trade."""
SHOWN = "mnist"
"""The case whose weights are shown."""


class Sweep(NamedTuple):
    """A search of Fig. 4.

    Attributes:
        case: one of `CASES`.
        beta: the weight of the compression in the reward.
        seed: of everything random.
    """

    case: str
    beta: float
    seed: int

    @property
    def name(self) -> str:
        """The name on the line of its result."""
        return f"beta-{self.case}-{self.beta:g}-{self.seed}"


SWEEPS = [Sweep(case, beta, seed) for seed in BETA_SEEDS for case in CASES for beta in BETAS]


def pose(case: str, seed: int, ncr: float, cache: Path) -> tuple[Problem, Any]:
    """The problem of a case as the command poses it, and the dense network's variables."""
    words = dict(zip(CASES[case].options[::2], CASES[case].options[1::2], strict=True))
    config = RunConfig(
        method="acnn",
        dataset=words["--dataset"],
        model=words["--model"],
        prune_inputs=True,
        importance="l1",
        cost=("neurons",),
        budget=(f"={neurons_allowed(CASES[case], ncr)}",),
        seed=seed,
        cache_dir=cache,
    )
    job = jobs.prepare(resolve(config, datetime.now()), acnn.Config(), methods.get("acnn"))
    recipe = job.recipe("pretrain")
    variables = training.pretrained(job.network, job.dataset, recipe, seed, cache)
    return jobs.pose(job, variables, {}), variables


def settle(sweep: Sweep, cache: Path) -> dict[str, Any]:
    """What the actor makes of the network at the end of a search, without exploration."""
    problem, _ = pose(sweep.case, sweep.seed, EXPECTED, cache)
    config = acnn.Config(unbounded=True, actor_rate=1e-3, replay=None, beta=sweep.beta)
    archive = acnn.search(config, problem, jax.random.PRNGKey(sweep.seed)).archive
    mask = archive.masks[-1]  # each round ends with the episode without exploration
    pair = jnp.stack([jnp.asarray(mask), jnp.ones_like(mask)])
    accuracy, dense = (100 * float(one) for one in problem.validate(pair).accuracy)
    return {
        **sweep._asdict(),
        "expected_ncr": EXPECTED,
        "ncr": len(mask) / int(mask.sum()),
        "accuracy": accuracy,
        "dense": dense,
        "versions": versions(),
        "device": jax.devices()[0].device_kind,
    }


def swept(case: str, beta: float) -> list[dict[str, Any]]:
    """The results of the searches with this beta that were made."""
    names = [sweep.name for sweep in SWEEPS if (sweep.case, sweep.beta) == (case, beta)]
    return [found for name in names if (found := lines(OUT).get(name))]


def beta_table() -> str:
    """Fig. 4 in numbers."""
    lines = []
    for case in CASES:
        for beta in BETAS:
            found = swept(case, beta)
            lines.append(
                [
                    f"{case}, beta {beta:g}",
                    str(len(found)),
                    spread(one["ncr"] for one in found),
                    spread(one["accuracy"] - one["dense"] for one in found),
                ]
            )
    header = ("", "seeds", "NCR", "change of validation accuracy, points")
    return table(header, lines)


def _plain(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def over_rounds(names: dict[str, str]) -> Figure | None:
    """Metrics of ACNN's searches round by round: each seed faint, their mean strong.

    Args:
        names: {metric: what its axis is called}, one row of panels for each.
    """
    lines = {
        case: [
            found
            for seed in SEEDS
            if (found := curves(row(case, "acnn", paper_ncr(case), seed), acnn_tables.OUT))
        ]
        for case in CASES
    }
    lines = {case: of_seeds for case, of_seeds in lines.items() if of_seeds}
    if not lines:
        return None
    figure = Figure(figsize=(3.0 * len(lines), 2.5 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), len(lines), squeeze=False)
    for axes_row, (metric, label) in zip(panels, names.items(), strict=True):
        for axes, (case, of_seeds) in zip(axes_row, lines.items(), strict=True):
            _plain(axes, CASES[case].title, "round", label)
            for found in of_seeds:
                axes.plot([line[metric] for line in found], color="#9aa5b1", lw=0.8)
            together = np.mean([[line[metric] for line in found] for found in of_seeds], 0)
            axes.plot(together, color=COLOURS["acnn"])
    return figure


def beta_picture() -> Figure | None:
    """NCR and accuracy against beta (Fig. 4)."""
    cases = [case for case in CASES if any(swept(case, beta) for beta in BETAS)]
    if not cases:
        return None
    figure = Figure(figsize=(3.6 * len(cases), 2.8), layout="constrained")
    for axes, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        _plain(axes, CASES[case].title, "beta", "NCR")
        axes.set_xscale("log")
        axes.set_xticks(BETAS, [f"{beta:g}" for beta in BETAS])
        axes.minorticks_off()
        other = axes.twinx()
        other.set_ylabel("validation accuracy, %", fontsize=8)
        other.tick_params(labelsize=8)
        found = {beta: some for beta in BETAS if (some := swept(case, beta))}
        for side, value, colour in ((axes, "ncr", "#d9480f"), (other, "accuracy", "#0b7285")):
            middle = [mean(one[value] for one in some) for some in found.values()]
            side.plot(list(found), middle, marker="o", ms=3, color=colour)
            side.yaxis.label.set_color(colour)
            for beta, some in found.items():
                side.scatter([beta] * len(some), [one[value] for one in some], s=6, color=colour)
    return figure


def density_picture() -> Figure | None:
    """Parameters that are left, and seconds of the search, of each method (Figs. 7, 9, 11)."""
    found = {
        case: {
            method: some
            for method in (*METHODS, *BASELINES)
            if (some := points(case, method, paper_ncr(case), SEEDS))
        }
        for case in CASES
    }
    cases = [case for case, made in found.items() if made]
    if not cases:
        return None
    figure = Figure(figsize=(1.2 + 3.4 * len(cases), 5.2), layout="constrained")
    panels = figure.subplots(2, len(cases), squeeze=False)
    for column, case in enumerate(cases):
        made = found[case]
        density, seconds = panels[:, column]
        _plain(density, CASES[case].title, "parameters left, %", "")
        density.barh(
            list(made),
            [mean(one.params for one in some) for some in made.values()],
            color=[COLOURS[method] for method in made],
        )
        timed = {
            method: mean(
                result["search"]["seconds"] for result in runs(case, method, paper_ncr(case), SEEDS)
            )
            for method in made
            if method in METHODS
        }
        _plain(seconds, "", "seconds of the search", "")
        seconds.barh(list(timed), list(timed.values()), color=[COLOURS[name] for name in timed])
        for axes in (density, seconds):
            axes.invert_yaxis()
    return figure


def spread_out(
    kernel: np.ndarray, inputs: tuple[int, ...], outputs: tuple[int, ...], shape: tuple[int, int]
) -> np.ndarray:
    """The kernel of a smaller layer in the shape of the dense one, 0 where neurons are gone."""
    whole = np.zeros(shape, kernel.dtype)
    whole[np.ix_(inputs, outputs)] = kernel
    return whole


def kernels(run: Path, dense: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, weights before and weights after of each layer of a pruned multilayer perceptron."""
    small = jaxprune.load(run)
    layers = dense["params"]
    groups = iter(small.kept.values())
    inputs = next(groups)
    for name, layer in layers.items():
        before = np.asarray(layer["kernel"])
        outputs = next(groups, tuple(range(before.shape[1])))
        after = np.asarray(small.params["params"][name]["kernel"])
        yield name, before, spread_out(after, inputs, outputs, before.shape)
        inputs = outputs


def weights_picture(run: Path, dense: Any) -> Figure:
    """Magnitudes of the weights of each layer before and after (Figs. 12, 13)."""
    layers = list(kernels(run, dense))
    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    panels = figure.subplots(2, len(layers))
    for column, (name, before, after) in enumerate(layers):
        top = float(np.quantile(np.abs(before), 0.995))
        for axes, kernel, when in zip(
            panels[:, column], (before, after), ("before", "after"), strict=True
        ):
            _plain(axes, f"{name} {when}: {np.mean(kernel != 0):.0%} not 0", "output", "input")
            shown = np.ma.masked_equal(np.abs(kernel), 0)
            image = axes.imshow(
                shown, aspect="auto", vmax=top, vmin=0, cmap="viridis", interpolation="nearest"
            )
            figure.colorbar(image, ax=axes)
    return figure


def pictures(runs_folder: Path | None) -> dict[str, Figure | None]:
    """The pictures that can be drawn from what was run, by name; None where nothing was."""
    shown = row(SHOWN, "acnn", paper_ncr(SHOWN), 0)
    weights = None
    if runs_folder and (runs_folder / shown.name / "result.json").exists():
        _, dense = pose(SHOWN, 0, paper_ncr(SHOWN), runs_folder / "cache")
        weights = weights_picture(runs_folder / shown.name, dense)
    return {
        "losses": over_rounds({"critic_loss": "critic's loss", "actor_loss": "actor's loss"}),
        "beta": beta_picture(),
        "rewards": over_rounds({"reward": "reward of an episode"}),
        "density": density_picture(),
        "weights": weights,
    }


TITLES = {
    "losses": "Fig. 3: losses of the agent's networks",
    "beta": "Fig. 4: the weight of the compression",
    "rewards": "Fig. 5: rewards",
    "density": "Figs. 7, 9 and 11: density and time",
    "weights": "Figs. 12 and 13: weights before and after",
}

TEXTS = {
    "losses": "ACNN at the NCR of the tables; faint lines are seeds, the strong one is their mean. "
    "Nothing is learnt in the warm-up. The actor's loss is minus the value of its actions; since a "
    "moving average comes off the rewards, values lie around 0.",
    "beta": "The paper's agent (unbounded, learning rates 0.001, 50 rounds of 8 episodes), whose "
    f"reward expects an NCR of {EXPECTED:g}; the network that the actor makes at the end without "
    "exploration, before fine-tuning. Dots are seeds, lines their means. The text's gradual trade "
    "is not found: up to beta 2 most actors settle at the NCR that is expected, or where hardly "
    "anything is removed, whichever the beta.",
    "rewards": "What an episode earns in all its steps, mean over the round's, which explore.",
    "density": "Parameters that are left with the neurons of the paper's NCR, and the time of the "
    "search in seconds, compilation included, beside other work; means over the seeds.",
    "weights": f"{CASES[SHOWN].title}, ACNN, seed 0, fine-tuned. Magnitudes; white is 0.",
}


def page(drawn: set[str]) -> str:
    """The page of results.

    Args:
        drawn: the names of the pictures that exist.
    """
    lines = [
        "# Figures of the ACNN paper",
        "",
        "Made by `python experiments/acnn_figures.py`. The paper's pictures have no numbers that",
        "could be quoted; its text says that rewards settle after about 100 iterations and that",
        "with beta the compression rises and the accuracy falls.",
        "",
    ]
    for name, title in TITLES.items():
        shown = f"![{title}]({name}.png)" if name in drawn else f"{NOT_RUN}."
        lines += [f"## {title}", "", TEXTS[name], "", shown, ""]
        if name == "beta":
            lines += [beta_table(), ""]
    return "\n".join(lines)


def main(options: Any) -> None:
    """Makes the searches and rows that were asked for, then pictures and page."""
    for sweep in SWEEPS:
        name = sweep.name
        wanted = options.runs and (not options.rows or any(part in name for part in options.rows))
        if options.list:
            print(f"{name}: beta {sweep.beta:g}, seed {sweep.seed}, {CASES[sweep.case].title}")
        elif wanted and name not in lines(OUT):
            result = settle(sweep, options.runs / "cache")
            add(name, result, OUT)
            print(name, f"NCR {result['ncr']:.2f}, accuracy {result['accuracy']:.2f}", flush=True)
    if options.list:
        return
    OUT.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures(options.runs).items():
        if figure is not None:
            figure.savefig(OUT / f"{name}.png", dpi=110)
    drawn = {path.stem for path in OUT.glob("*.png")}
    (OUT / "README.md").write_text(page(drawn))


if __name__ == "__main__":
    main(parser(__doc__).parse_args())
