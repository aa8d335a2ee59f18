"""`jaxprune networks ...`: pretrained networks as files that travel.

`make` trains a network, or goes on training it, and leaves one file: the weights in half
precision, and what they are. `add` puts such files into the cache of this machine, where every run
of the same network, data, recipe and seed finds them. `list` shows the known ones.
"""

import argparse
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxprune.commands.config import RECIPES
from jaxprune.commands.console import ended
from jaxprune.errors import UserError

PROGRAM = "jaxprune networks"


def main(argv: Sequence[str]) -> int:
    """Does what the arguments say.

    Args:
        argv: The arguments after the program's name; ``--help`` lists them.

    Returns:
        The exit code: 0, 2 if something that was typed cannot work, 130 after Ctrl-C.
    """
    options = _parser().parse_args(argv)
    return ended(lambda: options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").split("\n\n")[1])
    commands = parser.add_subparsers(required=True)
    new = commands.add_parser("make", help="train a network and write its file")
    new.set_defaults(command=_make)
    new.add_argument("--model", required=True, help="a bundled network, or module:function")
    new.add_argument("--dataset", required=True, help="what it is trained on")
    new.add_argument("--recipe", default="default", choices=RECIPES, help="how long")
    new.add_argument("--epochs", type=int, help="how many epochs, instead of the recipe's")
    new.add_argument("--examples", type=int, help="at most so many images of each split")
    new.add_argument("--seed", type=int, default=0)
    new.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of the file, and of the position that unfinished training is continued from",
    )
    new.add_argument("--data-dir", type=Path, help="folder of the prepared datasets")
    add = commands.add_parser("add", help="put files into the cache")
    add.set_defaults(command=_add)
    add.add_argument("files", nargs="+", type=Path)
    known = commands.add_parser("list", help="the networks in the cache and in the package")
    known.set_defaults(command=_list)
    for command in (new, add, known):
        command.add_argument("--cache-dir", type=Path, help="the cache of this machine")
    return parser


def make(
    model: str,
    dataset_name: str,
    out: Path,
    *,
    recipe_name: Any = "default",
    epochs: int | None = None,
    examples: int | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
) -> Path:
    """Trains a network, unless it was trained before, and writes its file.

    The weights that the file holds, in half precision, take the place of those in the cache: all
    who prune the network begin with the same numbers.

    Args:
        model: See `commands.run.job.build`.
        dataset_name: See `training.data.load`.
        out: Folder of the file. Unfinished training keeps its position there.
        recipe_name: See `training.default_recipe`.
        epochs: Epochs instead of the recipe's.
        examples: At most so many images of each split.
        seed: See `training.pretrained`.
        data_dir: See `training.data.load`.
        cache_dir: See `training.data.cache.cache_folder`.

    Returns:
        The file.

    Raises:
        UserError: A name is unknown, the data are missing, or the folder cannot be written.
    """
    import dataclasses

    from jaxprune import training
    from jaxprune.commands.config import device, versions
    from jaxprune.commands.run.compiled import keep_compiled
    from jaxprune.commands.run.job import build
    from jaxprune.files import arrays
    from jaxprune.training import data, pretraining

    keep_compiled(cache_dir)
    dataset = data.load(dataset_name, data_dir, cache_dir=cache_dir)
    if examples is not None:
        dataset = data.subset(dataset, examples)
    network = build(model, dataset)
    recipe = training.default_recipe(model, dataset_name, name=recipe_name)
    if epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=epochs)
    name, facts = pretraining.origin(network, dataset, recipe, seed)
    path = out.expanduser().resolve() / name
    if path.is_file():
        arrays.load(path)  # or says that it is damaged
        print(f"{path} was made before")
    else:
        variables = training.pretrained(
            network,
            dataset,
            recipe,
            seed,
            cache_dir,
            progress=lambda epoch, metrics: print(
                f"epoch {epoch}/{recipe.epochs}, loss {metrics['loss']:.3f}, "
                f"training accuracy {metrics['accuracy']:.2%}",
                flush=True,
            ),
            unfinished=pretraining.unfinished_file(path),
        )
        preprocess = data.preprocess(dataset, network.flat)
        half = pretraining.widen(pretraining.halve(variables), like=variables)
        about = {
            **facts,
            "accuracy": {
                split: training.accuracy(network.apply, half, getattr(dataset, split), preprocess)
                for split in ("validation", "test")
            },
            "command": command(
                words(
                    *(model, dataset_name, recipe_name),
                    epochs=epochs,
                    examples=examples,
                    seed=seed,
                )
            ),
            "device": device(),
            "versions": versions(),
        }
        pretraining.write(path, variables, about)
        print(f"{path}: test accuracy {about['accuracy']['test']:.2%}")
    add(path, cache_dir)
    return path


def add(path: Path, cache_dir: Path | None = None) -> Path:
    """Copies a network's file into the cache, whole or not at all; returns where it lies then.

    Raises:
        UserError: It is missing, damaged, or named as no network is.
    """
    from jaxprune.files import arrays
    from jaxprune.training import pretraining

    facts = arrays.about(path)
    if not {"model", "dataset", "recipe", "seed"} <= facts.keys():
        raise UserError(f"{path} is no pretrained network: it does not say what made it")
    arrays.load(path)
    target = pretraining.networks_folder(cache_dir) / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    shutil.copyfile(path, fresh)
    fresh.replace(target)
    return target


def known(cache_dir: Path | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The networks of the cache and of the package, and what their files say."""
    from jaxprune.files import arrays
    from jaxprune.training import pretraining

    for folder in (pretraining.networks_folder(cache_dir), pretraining.SHIPPED):
        for path in sorted(folder.glob("*.npz")):
            if not path.name.endswith(".unfinished.npz"):
                yield path, arrays.about(path)


def _make(options: argparse.Namespace) -> None:
    make(
        options.model,
        options.dataset,
        options.out,
        recipe_name=options.recipe,
        epochs=options.epochs,
        examples=options.examples,
        seed=options.seed,
        data_dir=options.data_dir,
        cache_dir=options.cache_dir,
    )


def _add(options: argparse.Namespace) -> None:
    for path in options.files:
        print(add(path, options.cache_dir))


def _list(options: argparse.Namespace) -> None:
    for path, facts in known(options.cache_dir):
        test = facts.get("accuracy", {}).get("test")
        accuracy = "" if test is None else f", test accuracy {test:.2%}"
        recipe = ", ".join(f"{name} {value}" for name, value in facts["recipe"].items())
        print(f"{path}: seed {facts['seed']}{accuracy}; {recipe or 'the defaults of Recipe'}")


def words(
    model: str,
    dataset: str,
    recipe: str = "default",
    *,
    epochs: int | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> tuple[str, ...]:
    """The options of `make` for a network, without places."""
    given = [*("--model", model, "--dataset", dataset, "--recipe", recipe)]
    for option, value in (("--epochs", epochs), ("--examples", examples)):
        given += [] if value is None else [option, str(value)]
    return (*given, "--seed", str(seed))


def command(options: Sequence[str]) -> str:
    """What to type to make a network's file in the folder where it is typed."""
    return f"{PROGRAM} make {shlex.join([*options, '--out', '.'])}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
