"""Settings: what is refused, what is filled in, what config.json keeps."""

import dataclasses
import json
import re
from datetime import datetime
from pathlib import Path

import jax
import pytest

from jaxprune.commands import config
from jaxprune.commands.config import RunConfig
from jaxprune.costs import budgets
from jaxprune.errors import UserError
from jaxprune.networks import bundled
from jaxprune.search import methods
from jaxprune.training import data


def test_defaults_pass():
    config.check(RunConfig())


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("method", methods.NAMES),
        ("dataset", (*data.NAMES, "those of images that lie prepared in", "or module:function")),
        ("model", (*bundled.NAMES, "or module:function")),
        ("cost", (*budgets.NAMES, "or module:function")),
    ],
)
def test_unknown_names_are_refused_with_all_valid_ones(field, names):
    wrong = ("nonsense",) if field == "cost" else "nonsense"
    with pytest.raises(
        UserError, match=rf"\Aunknown {field} 'nonsense'; the {field}s are: "
    ) as caught:
        config.check(dataclasses.replace(RunConfig(), **{field: wrong}))
    known = [name.split(" /")[0] for name in str(caught.value).split(": ")[1].split(", ")]
    assert known == list(names)
    assert {name for name in names if " " not in name} == set(config_help_names(field)), (
        "the help text lists other names"
    )


def config_help_names(field: str) -> set[str]:
    """The names of a kind that occur in the source of RunConfig, which --help shows."""
    source = Path(config.__file__).read_text()
    text = source.split(f"    {field}: ")[1].split('"""')[1]
    known = {*methods.NAMES, *data.NAMES, *bundled.NAMES, *budgets.NAMES}
    return known & set(re.findall(r"\w+", text.split("by default")[0]))


@pytest.mark.parametrize("budget", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_budgets_outside_the_unit_interval_are_refused(budget):
    with pytest.raises(UserError, match=r"--budget .* is outside \(0, 1\]"):
        config.check(RunConfig(budget=(str(budget),)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("seed", 2**31),
        ("pretrain_epochs", -1),
        ("finetune_epochs", -1),
        ("search_examples", 0),
        ("latency_batch", 0),
    ],
)
def test_numbers_out_of_range_are_refused_by_the_name_of_their_option(field, value):
    with pytest.raises(UserError, match=f"--{field.replace('_', '-')} {value} is too"):
        config.check(dataclasses.replace(RunConfig(), **{field: value}))


def test_every_dataset_has_a_default_model():
    assert set(config.DEFAULT_MODELS) == set(data.NAMES)
    assert set(config.DEFAULT_MODELS.values()) <= set(bundled.NAMES)


def test_model_and_folder_are_filled_in():
    now = datetime(2024, 3, 9, 8, 7, 6)
    resolved = config.resolve(RunConfig(dataset="mnist", method="random"), now)
    assert resolved.model == "lenet5"
    assert resolved.importance == "l1"
    assert config.resolve(RunConfig(prune_inputs=True), now).importance == "reconstruction"
    assert resolved.out == Path("runs/20240309-080706-random-lenet5-mnist")
    kept = config.resolve(RunConfig(model="mlp", out=Path("there")), now)
    assert (kept.model, kept.out) == ("mlp", Path("there"))


@pytest.mark.parametrize("method", methods.NAMES)
def test_settings_survive_json(method):
    search = methods.get(method).Config()
    run = config.resolve(RunConfig(method=method, seed=3, out=Path("x")), datetime(2024, 1, 1))
    stored = json.loads(json.dumps(config.to_json(run, search)))
    again, search_again = config.from_json(stored, methods.get(method).Config)
    assert search_again == search
    assert again == dataclasses.replace(run, out=None)
    assert config.difference(stored, config.to_json(again, search_again)) is None


def test_difference_names_the_option():
    search = methods.get("random").Config()
    stored = config.to_json(RunConfig(), search)
    other = config.to_json(RunConfig(finetune_epochs=3), search)
    assert config.difference(stored, other) == "--finetune-epochs is 3, the run has None"
    deeper = config.to_json(RunConfig(), dataclasses.replace(search, candidates=5))
    assert config.difference(stored, deeper) == "--search.candidates is 5, the run has 64"


def test_places_make_no_difference():
    search = methods.get("magnitude").Config()
    there = RunConfig(out=Path("a"), data_dir=Path("b"), cache_dir=Path("c"), resume=True)
    assert config.to_json(there, search) == config.to_json(RunConfig(), search)


def test_versions_are_kept_and_make_no_difference():
    search = methods.get("magnitude").Config
    plain = config.to_json(RunConfig(), search())
    stored = plain | {"versions": config.versions()}
    assert stored["versions"]["jax"] == jax.__version__
    assert config.from_json(stored, search) == (RunConfig(), search())
    assert config.difference(stored, plain) is None


def test_settings_of_another_version_are_refused():
    search = methods.get("magnitude").Config
    stored = config.to_json(RunConfig(), search()) | {"colour": "red"}
    with pytest.raises(UserError, match=r"another version of jaxprune: .*colour"):
        config.from_json(stored, search)


def test_what_the_environment_says_is_checked_with_the_settings(monkeypatch):
    monkeypatch.setenv("JAXPRUNE_LOWERING", "maybe")
    with pytest.raises(UserError, match="JAXPRUNE_LOWERING=maybe: it can be on or off"):
        config.check(RunConfig())
