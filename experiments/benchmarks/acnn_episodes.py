"""Episodes a second of the ACNN and AMC searches, beside their loops written in PyTorch.

    python experiments/benchmarks/acnn_episodes.py [--repeats 9] [--images 1024]

LeNet-300-100 with prunable inputs on MNIST, at the paper's compression rate, trained for a few
epochs (or whatever the cache holds). A round is `episodes` networks pruned layer by layer, each
scored on the same images after every layer, and the learning from their steps. Here a round also
scores an episode without exploration and the best networks on validation images, and keeps the
candidates; networks are scored at their own widths (`scoring.own_widths`), and those that the same
search has scored before are looked up: how many is printed. In PyTorch it is Algorithm 1, plainly:
one episode at a time; for each layer one call of the actor, the weights sliced, the accuracy of the
smaller network; when the replay holds the round's steps, minibatches of it with Adam and the soft
threshold; then the target networks, and the replay is cleared. Networks, observations, bound on the
actions, reward, images and numbers of minibatches are the same on both sides: the tool's default of
minibatches, and the single pass that the paper prints. Before anything is timed, both must give the
same accuracies, the same observations and the same bound on actions for the same masks.

AMC's loop is that of its published code: the finished network alone is scored, and its error paid
for every step; after each episode actor, critic and targets learn from as many minibatches of the
replay, which keeps 100 episodes, as it had steps.

The two take turns, with a pause before each, in which the other's threads come to rest; medians
and quartiles are printed. The first rounds, in which most of the widths are compiled that occur,
are left out; how long they took is printed too. How much could be gained at most by scoring each of
these networks for itself follows from the multiply-adds of PyTorch's smaller networks and the rate
of one matrix product. Then a whole search as the command makes it is timed, with the compilation
and again without. PyTorch (not a dependency) must be installed. Writes
`experiments/results/acnn_episodes/<device>.json` and `.md`.
"""

import argparse
import copy
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measured
import numpy as np
import torch
from torch.nn import functional

from jaxprune import make_problem, trace, training
from jaxprune.costs import within_groups
from jaxprune.networks import bundled
from jaxprune.search.agents import acnn, amc
from jaxprune.search.agents.ddpg.config import Config
from jaxprune.search.agents.ddpg.episodes import most_removed
from jaxprune.search.envs.observations import attributes, observer
from jaxprune.search.envs.reach import least_removed
from jaxprune.search.problem import Host, Problem, on_host
from jaxprune.training import data

BUDGET = "=342"  # of 1,184 neurons: an NCR of 3.46
EPOCHS = 3
WARM = 20
"""Rounds before the timed ones."""
PAUSE = 0.3
"""Seconds before each measurement."""


class Actor(torch.nn.Module):
    """What to remove of a layer."""

    def __init__(self, observed: int, hidden: tuple[int, int]):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(observed, hidden[0]),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden[0], hidden[1]),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden[1], 1),
            torch.nn.Sigmoid(),
        )
        torch.nn.init.uniform_(self.layers[4].weight, -3e-3, 3e-3)

    def forward(self, seen):
        """`[..., O]` -> actions `[...]`."""
        return self.layers(seen)[..., 0]


class Critic(torch.nn.Module):
    """What an action is worth."""

    def __init__(self, observed: int, hidden: tuple[int, int]):
        super().__init__()
        self.observation = torch.nn.Linear(observed, hidden[0])
        self.action = torch.nn.Linear(1, hidden[0])
        self.middle = torch.nn.Linear(hidden[0], hidden[1])
        self.output = torch.nn.Linear(hidden[1], 1)
        torch.nn.init.uniform_(self.output.weight, -3e-3, 3e-3)

    def forward(self, seen, action):
        """`[..., O]` and `[...]` -> values `[...]`."""
        first = torch.relu(self.observation(seen) + self.action(action[..., None]))
        return self.output(torch.relu(self.middle(first)))[..., 0]


class Network:
    """A multilayer perceptron with ReLU whose neurons can be removed.

    Args:
        params: its parameters in Flax's form, one dense layer after the other.
        importance: of each neuron, the input's first, `[N]`.
        table: what AMC sees of each layer whatever is removed, `[T, 8]`.
        x: the images it is scored on, `[B, D]`.
        y: their labels, `[B]`.
    """

    def __init__(self, params, importance, table, x, y):
        self.attributes = table
        kernels = [np.array(layer["kernel"]) for layer in params.values()]
        # PyTorch copies kernels that are not contiguous on every call.
        self.weights = [torch.from_numpy(np.ascontiguousarray(kernel.T)) for kernel in kernels]
        self.biases = [torch.from_numpy(np.array(layer["bias"])) for layer in params.values()]
        self.sizes = [len(kernel) for kernel in kernels]
        parts = np.split(importance, np.cumsum(self.sizes)[:-1])
        # The most important neurons first, ties as `within_groups.rank` breaks them.
        self.order = [
            torch.from_numpy(np.argsort(part, kind="stable")[::-1].copy()) for part in parts
        ]
        self.x, self.y = torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y, np.int64))
        self.whole = self.parameters(self.sizes)
        self.multiply_adds = 0

    def parameters(self, widths):
        """How many parameters a network of these widths has."""
        outputs = len(self.biases[-1])
        pairs = zip(widths, [*widths[1:], outputs], strict=True)
        return sum(before * after + after for before, after in pairs)

    def observe(self, step, widths):
        """ACNN's state [t, n, p, l_p] before a step, for the widths so far."""
        settled = [width if layer < step else 0 for layer, width in enumerate(widths)]
        without = [0 if layer == step else width for layer, width in enumerate(widths)]
        left = self.parameters(widths) - self.parameters(without)
        return torch.tensor(
            [
                step / len(widths),
                self.sizes[step] / max(self.sizes),
                self.parameters(settled) / self.whole,
                left / self.whole,
            ]
        )

    def logits(self, keep):
        """Of the network that has only these neurons of each layer: really smaller."""
        x = self.x[:, keep[0]]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            weight = weight[:, keep[layer]]
            if layer + 1 == len(self.weights):
                return functional.linear(x, weight, bias)
            kept = keep[layer + 1]
            x = torch.relu(functional.linear(x, weight[kept], bias[kept]))
        raise AssertionError("a network has a layer")

    def keep(self, widths):
        """The most important neurons of each layer."""
        return [order[:width] for order, width in zip(self.order, widths, strict=True)]

    def accuracy(self, widths):
        """Of the network with the most important neurons of each layer; its work is counted."""
        pairs = zip(widths, [*widths[1:], len(self.biases[-1])], strict=True)
        self.multiply_adds += len(self.y) * sum(before * after for before, after in pairs)
        return float((self.logits(self.keep(widths)).argmax(-1) == self.y).float().mean())


class Algorithm1:
    """The paper's Algorithm 1.

    Args:
        config: the agent's settings.
        network: what is pruned.
        allowed: how many neurons may be left.
        most: how many neurons each layer may lose.
    """

    entries = 4
    """Of an observation."""

    def __init__(self, config: Config, network: Network, allowed: int, most: list[int]):
        self.config, self.network, self.allowed, self.most = config, network, allowed, most
        self.actor = Actor(self.entries, config.hidden)
        self.critic = Critic(self.entries, config.hidden)
        self.targets = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.optimizers = [
            torch.optim.Adam(self.actor.parameters(), lr=config.actor_rate),
            torch.optim.Adam(self.critic.parameters(), lr=config.critic_rate),
        ]
        self.dense = network.accuracy(network.sizes)
        self.sigma, self.average, self.replay = config.sigma, None, []
        self.random = np.random.default_rng(0)

    def least(self, step, widths):
        """How many neurons must go, so that the later layers can still meet the budget."""
        later = sum(self.network.sizes[step + 1 :]) - sum(self.most[step + 1 :])
        return max(0, sum(widths[: step + 1]) + later - self.allowed)

    def observe(self, step, widths, previous):
        """What is seen before a step; `previous` is the part removed of the layer before."""
        return self.network.observe(step, widths)

    def decide(self, step, widths, seen):
        """Prunes a layer; returns the action."""
        size = self.network.sizes[step]
        with torch.no_grad():
            action = self.explore(float(self.actor(seen)))
        removed = min(int(action * size + 0.5), self.most[step])
        widths[step] = size - max(removed, self.least(step, widths))
        return action

    def explore(self, action):
        """An action around the actor's, from a normal distribution truncated to [0, 1]."""
        while True:
            tried = float(self.random.normal(action, self.sigma))
            if 0 <= tried <= 1:
                return tried

    def episode(self):
        """Prunes one network layer by layer, and adds its steps to the replay."""
        widths = list(self.network.sizes)
        seen = self.observe(0, widths, 0.0)
        for step in range(len(widths)):
            action = self.decide(step, widths, seen)
            with torch.no_grad():
                accuracy = self.network.accuracy(widths)
            reward = min(accuracy / (self.config.expected_accuracy * self.dense), 1)
            reward += self.config.beta * min(self.allowed / sum(widths), 1)
            last = step + 1 == len(widths)
            following = self.observe(min(step + 1, len(widths) - 1), widths, 0.0)
            self.replay.append((seen, action, reward, following, 0.0 if last else 1.0))
            seen = following
        self.sigma = max(self.sigma * self.config.sigma_decay, 1e-6)

    def learn(self, batch):
        """Critic and actor learn from one minibatch, by proximal steps."""
        seen, actions, rewards, following, continues = batch
        mean = float(rewards.mean())
        old = mean if self.average is None else self.average
        self.average = old + self.config.baseline_rate * (mean - old)
        with torch.no_grad():
            actor, critic = self.targets
            later = critic(following, actor(following))
            wanted = rewards - self.average + self.config.gamma * continues * later
        loss = ((self.critic(seen, actions) - wanted) ** 2).mean()
        self.step(self.optimizers[1], loss)
        self.step(self.optimizers[0], -self.critic(seen, self.actor(seen)).mean())

    def step(self, optimizer, loss):
        """Adam, then the soft threshold (eqs. 8 to 11)."""
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if self.config.shrinkage == 0:
            return
        with torch.no_grad():
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    weight.copy_(functional.softshrink(weight, self.config.shrinkage * group["lr"]))

    def round(self):
        """Episodes one after the other until the replay is full, and the learning from it."""
        for _ in range(self.config.episodes):
            self.episode()
        columns = self.columns(self.replay)
        count = self.config.updates * self.config.batch
        order = torch.randperm(len(self.replay))[torch.arange(count) % len(self.replay)]
        for places in order.split(self.config.batch):
            self.learn([column[places] for column in columns])
        self.follow()
        self.replay.clear()

    def columns(self, steps):
        """Steps as arrays."""
        seen, actions, rewards, following, continues = zip(*steps, strict=True)
        return (
            torch.stack(seen),
            torch.tensor(actions),
            torch.tensor(rewards),
            torch.stack(following),
            torch.tensor(continues),
        )

    def follow(self):
        """Moves the target networks."""
        for target, source in zip(self.targets, (self.actor, self.critic), strict=True):
            with torch.no_grad():
                for old, new in zip(target.parameters(), source.parameters(), strict=True):
                    old.lerp_(new, self.config.tau)


class Amc(Algorithm1):
    """The loop of AMC's published code."""

    entries = 10

    def observe(self, step, widths, previous):
        """AMC's state, as `jaxprune.search.envs.observations` says it."""
        *static, rest = self.network.attributes[step].tolist()
        reduced = 1 - sum(widths) / sum(self.network.sizes)
        return torch.tensor([*static, reduced, rest, previous])

    def episode(self):
        """Prunes one network, adds its steps to the replay, and learns from that."""
        widths = list(self.network.sizes)
        seen, steps = self.observe(0, widths, 0.0), []
        for step, size in enumerate(self.network.sizes):
            action = self.decide(step, widths, seen)
            last = step + 1 == len(widths)
            following = self.observe(step if last else step + 1, widths, 1 - widths[step] / size)
            steps.append((seen, action, following, 0.0 if last else 1.0))
            seen = following
        with torch.no_grad():
            reward = self.network.accuracy(widths) - 1
        self.replay += [(seen, action, reward, *others) for seen, action, *others in steps]
        self.replay = self.replay[-self.config.replay * len(widths) :]
        self.sigma = max(self.sigma * self.config.sigma_decay, 1e-6)
        for _ in widths:
            places = self.random.integers(len(self.replay), size=self.config.batch)
            self.learn(self.columns([self.replay[place] for place in places]))
            self.follow()

    def round(self):
        """Episodes one after the other."""
        for _ in range(self.config.episodes):
            self.episode()


class Run(NamedTuple):
    """What is measured.

    Attributes:
        agent: the method's module.
        config: its settings.
        loop: its loop in PyTorch.
    """

    agent: Any
    config: Config
    loop: type[Algorithm1]


RUNS = {
    "default": Run(acnn, acnn.Config(warmup=0, replay=None), Algorithm1),
    "one pass (Algorithm 1)": Run(acnn, acnn.Config(warmup=0, replay=None, updates=1), Algorithm1),
    "AMC": Run(amc, amc.Config(warmup=0), Amc),
}
"""{what it is called: what is measured}."""


class Posed(NamedTuple):
    """The pruning problem on MNIST as the command poses it.

    Attributes:
        problem: the problem.
        params: the dense parameters.
        train: images and classes that networks are scored on.
        host: what scores networks, such that nothing has been scored yet.
    """

    problem: Problem
    params: Any
    train: tuple[Any, Any]
    host: Callable[[], Host | None]

    def anew(self):
        """The problem as it was when nothing had been scored."""
        return self.problem._replace(host=self.host())


def pose(images):
    """Poses the problem."""
    mnist = data.load("mnist")
    network = bundled.build("lenet300", mnist.train.images.shape[1:])
    recipe = dataclasses.replace(training.default_recipe("lenet300", "mnist"), epochs=EPOCHS)
    variables = training.pretrained(network, mnist, recipe, seed=0)
    inputs = data.preprocess(mnist, network.flat)
    structure = trace(network.apply, variables, inputs(mnist.train.images[:1]), prune_inputs=True)

    def batch(split):
        _, part = split.divide(images, 0)
        return inputs(jnp.asarray(part.images)), jnp.asarray(part.labels)

    train, validation = batch(mnist.train), batch(mnist.validation)
    problem = make_problem(
        network.apply, structure, variables, train, validation, cost="neurons", budget=BUDGET
    )
    host = functools.partial(
        on_host, network.apply, structure, variables, train, validation, problem.importance
    )
    return Posed(problem, variables["params"], train, host)


def check(problem, loop, tries=20):
    """Both sides must agree on accuracies, observations and bounds, for random widths."""
    structure, network = problem.structure, loop.network
    sizes = tuple(group.size for group in structure.groups)
    rank = within_groups.rank(sizes, problem.importance)
    observe = jax.jit(observer(loop.config.observation, structure, problem.cost))
    bound = jax.jit(
        lambda step, mask: least_removed(
            problem.allowed,
            problem.cost,
            rank,
            jnp.asarray(loop.most),
            step,
            mask,
            jnp.float32(problem.budget),
        )
    )
    rng = np.random.default_rng(0)
    for _ in range(tries):
        widths = [int(rng.integers(size // 4, size + 1)) for size in sizes]
        removed = np.subtract(sizes, widths)
        mask = (rank >= np.repeat(removed, sizes)).astype(jnp.float32)
        ours = float(problem.evaluate(mask[None]).accuracy[0])
        # One image may lie between two classes, which another order of sums decides.
        assert abs(network.accuracy(widths) - ours) < 1.5 / len(network.y), (widths, ours)
        for step in range(len(sizes)):
            seen = observe(jnp.int32(step), mask, jnp.float32(0.25), jnp.float32(0))
            np.testing.assert_allclose(loop.observe(step, widths, 0.25), seen, rtol=1e-5)
            undone = mask * (structure.group_index < step) + (structure.group_index >= step)
            so_far = [
                w if layer < step else s
                for layer, (w, s) in enumerate(zip(widths, sizes, strict=True))
            ]
            least = min(loop.least(step, so_far), loop.most[step])
            assert least == int(bound(jnp.int32(step), undone)), (widths, step)


def rounds(posed, of, repeats):
    """Seconds of a round for both, every one a list of `repeats` measurements."""
    problem, config = posed.anew(), of.config
    table = attributes(problem.structure)
    network = Network(posed.params, np.asarray(problem.importance), table, *posed.train)
    allowed = int(problem.budget * sum(network.sizes) + 1e-6)
    loop = of.loop(config, network, allowed, np.asarray(most_removed(config, problem)).tolist())
    check(problem, loop)
    scored, anew = counted(of, posed.anew(), repeats)
    state = of.agent.init(config, problem, jax.random.PRNGKey(0))
    start = time.perf_counter()
    for _ in range(WARM):
        state, _ = of.agent.update(config, problem, state)
    compiled = time.perf_counter() - start
    loop.round()
    network.multiply_adds = 0
    seconds = {"jaxprune": [], "PyTorch": []}
    for _ in range(repeats):
        time.sleep(PAUSE)
        start = time.perf_counter()
        state, _ = of.agent.update(config, problem, state)
        seconds["jaxprune"].append(time.perf_counter() - start)
        time.sleep(PAUSE)
        start = time.perf_counter()
        loop.round()
        seconds["PyTorch"].append(time.perf_counter() - start)
    return {
        "episodes": config.episodes,
        "minibatches": config.updates or config.episodes * len(network.sizes),
        "first_rounds_seconds": compiled,
        "networks": scored,
        "networks_anew": anew,
        "multiply_adds_per_round": network.multiply_adds / repeats,
        "seconds_per_round": seconds,
    }


def counted(of, problem, repeats):
    """Networks of the timed rounds, and those of them that no round before has scored."""
    known, counts = set(), []

    def evaluate(masks):
        names = [mask.tobytes() for mask in np.asarray(masks).reshape(-1, masks.shape[-1])]
        counts.append((len(names), len(set(names) - known)))
        known.update(names)
        return problem.host.evaluate(masks)

    watched = problem._replace(host=problem.host._replace(evaluate=evaluate))
    state = of.agent.init(of.config, watched, jax.random.PRNGKey(0))
    for _ in range(WARM + repeats):
        state, _ = of.agent.update(of.config, watched, state)
    return [sum(column) for column in zip(*counts[-repeats:], strict=True)]


def fastest_rate(params, train, repeats=21):
    """Multiply-adds a second of the first layer's matrix product, by the faster of the two."""
    x, kernel = train[0], next(iter(params.values()))["kernel"]
    torch_x, torch_kernel = (torch.from_numpy(np.array(array)) for array in (x, kernel))
    product = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(product(x, kernel))
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        _ = torch_x @ torch_kernel
        seconds.append(time.perf_counter() - start)
    return x.shape[0] * kernel.size / min(seconds)


def whole_search(posed):
    """Seconds of the default search, the first of which compiles."""
    seconds = []
    for _ in range(2):
        problem = posed.anew()
        start = time.perf_counter()
        acnn.search(acnn.Config(), problem, jax.random.PRNGKey(1))
        seconds.append(time.perf_counter() - start)
    first, again = seconds
    return {"rounds": acnn.Config().iterations, "first": first, "again": again}


def table(results, rate):
    """The measurements as a Markdown table."""
    lines = [
        "| minibatches of a round | | episodes/s (quartiles) | ms a round | x PyTorch "
        "| scored anew, % | x PyTorch at most |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, result in results.items():
        base = statistics.median(result["seconds_per_round"]["PyTorch"])
        most = base * rate / result["multiply_adds_per_round"]
        for way, seconds in result["seconds_per_round"].items():
            low, median, high = statistics.quantiles(seconds, n=4)
            k = result["episodes"]
            anew = 100 * result["networks_anew"] / result["networks"] if way == "jaxprune" else 100
            lines.append(
                f"| {result['minibatches']}, {name} | {way} | {k / median:.0f} "
                f"({k / high:.0f} - {k / low:.0f}) | {1e3 * median:.0f} | {base / median:.1f} "
                f"| {anew:.0f} | {most:.1f} |"
            )
    return "\n".join(lines)


def main():
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=measured.several, default=9)
    parser.add_argument("--images", type=int, default=1024)
    arguments = parser.parse_args()
    posed = pose(arguments.images)
    results = {name: rounds(posed, of, arguments.repeats) for name, of in RUNS.items()}
    rate = fastest_rate(posed.params, posed.train)
    searched = whole_search(posed)
    about = {**measured.circumstances(), "images": arguments.images}
    compiled = ", ".join(f"{result['first_rounds_seconds']:.1f} s" for result in results.values())
    text = (
        "# Episodes of ACNN and AMC\n\n"
        f"{measured.in_words(about)} Each network is scored on {about['images']} images of MNIST."
        "\n\n"
        f"{table(results, rate)}\n\n"
        "Scored anew: networks that the same search had not scored before, of those that it\n"
        "rewards; it looks the others up. x PyTorch at most: if the smaller networks that\n"
        f"PyTorch scores were scored at the rate of one matrix product, {rate / 1e9:.0f} billion\n"
        f"multiply-adds a second, and all else took no time. The first {WARM} rounds, which\n"
        f"compile, took {compiled}. A whole search of ACNN,\n"
        f"{searched['rounds']} rounds, took {searched['first']:.1f} s with what was left to "
        f"compile, and {searched['again']:.1f} s again, nothing of\nit known before.\n"
    )
    measured.write(
        "acnn_episodes", text, about | {"rate": rate, "rounds": results, "search": searched}
    )


if __name__ == "__main__":
    main()
