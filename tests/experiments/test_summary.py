"""The table of all speed pages, from measurements made up by hand."""

import pytest
import summary


def case(network, images, removed, full, own, torch, first=None):
    """Candidates' seconds, once each, and those of the first ones with compilation."""
    seconds = {"full width": [full], "own widths": [own], "PyTorch": [torch]}
    return {
        "network": network,
        "images": images,
        "removed": removed,
        "seconds_per_candidate": seconds,
        "first_seconds_per_candidate": first,
    }


CONTENTS = {
    "candidates": {
        "results": [
            case("vgg16", 256, 0.0, full=0.5, own=1.0, torch=0.6),
            case("vgg16", 256, 0.821, full=1.0, own=0.5, torch=0.37, first=0.625),
            case("lenet300", 1000, 0.777, full=0.002, own=0.001, torch=0.004, first=0.02),
        ]
    },
    "tree_search": {
        "about": {"simulations": 64},
        "rows": [
            {
                "network": "LeNet-5",
                "width": 64,
                "search": search,
                "games": games,
                "simulations": simulations,
                "per_second": per_second,
            }
            for search, games, simulations, per_second in (
                ("plain Python", 1, 64, 378.0),
                ("plain Python", 1, 256, 9.0),
                ("jaxprune", 1, 64, 9999.0),
                ("jaxprune", 64, 64, 1511.0),
                ("jaxprune", 64, 256, 9999.0),
                ("mctx.search", 64, 64, 9999.0),
            )
        ],
    },
    "ppo_steps": {
        "results": [
            {
                "network": "vgg11",
                "evaluation": False,
                "episodes": 64,
                "layers": 8,
                "seconds_per_round": {
                    "jaxprune": [0.9, 0.02, 0.01],
                    "stable-baselines3, environments: 1": [0.3],
                    "stable-baselines3, environments: 64": [0.1],
                },
            }
        ]
    },
    "finetune_many": {
        "steps": 2,
        "candidates": {"masked": 2, "compact": 16, "PyTorch, a": 16, "PyTorch, b": 16},
        "seconds_per_pass": {
            "masked": [4.0],
            "compact": [16.0],
            "PyTorch, a": [32.0],
            "PyTorch, b": [16.008],
        },
    },
    "acnn_episodes": {
        "rounds": {
            "default": {
                "episodes": 8,
                "seconds_per_round": {"jaxprune": [0.004], "PyTorch": [0.1, 0.3, 0.2]},
            }
        }
    },
}

# what was measured, this package's rate, the peer's, their ratio, the target, what came of it
EXPECTED = [
    ("vgg16, 256 images, 0 % removed", "2.00", "1.67", "1.20", "1.0", "reached"),
    ("vgg16, 256 images, 80 % removed", "2.00", "2.70", "0.74", "1.0", "missed: 0.74 of 1.0"),
    (
        "vgg16, 256 images, 80 % removed, the first 200 with compilation",
        *("1.60", "2.70", "0.59", "1.0", "missed: 0.59 of 1.0"),
    ),
    ("vgg16, 256 images, 90 % removed", "", "", "", "1.0", "not run"),
    (
        "vgg16, 256 images, 90 % removed, the first 200 with compilation",
        *("", "", "", "1.0", "not run"),
    ),
    ("lenet300, 1,000 images, 80 % removed", "1,000", "250", "4.00", "4.0", "reached"),
    ("fine-tuning many, vgg11", "2.00", "2.00", "1.00", "1.0", "reached"),
    (
        "tree search, 64 games, the paper's network",
        *("1,511", "378", "3.99", "4.0", "missed: 3.99 of 4.0"),
    ),
    ("tree search, 64 games, a network of one layer", "", "", "", "50.0", "not run"),
    (
        "PPO without evaluation, vgg11",
        *("25,600", "5,120", "5.00", "20.0", "missed: 5.00 of 20.0"),
    ),
    ("episodes of ACNN, default", "2,000", "40.00", "50.00", "10.0", "reached"),
    ("episodes of ACNN, Algorithm 1", "", "", "", "10.0", "not run"),
    ("a round of CRL, lenet300", "", "", "", "none", "not run"),
]


@pytest.fixture(scope="module")
def rows():
    """The table's rows by what was measured."""
    pages = {name: f"../{name}/cpu.md" for name in summary.PAGES}
    table = summary.table(CONTENTS, pages).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {what: rest for what, *rest in cells}


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda row: row[0])
def test_rates_and_targets(rows, expected):
    what, *numbers = expected
    assert rows[what][1:6] == numbers


def test_pages_of_what_was_run_are_linked(rows):
    assert rows["PPO without evaluation, vgg11"][6] == "[ppo_steps](../ppo_steps/cpu.md)"
    assert rows["a round of CRL, vgg11"][6] == "crl_round"


def test_compilation_counts_for_the_network_that_compiles_much(rows):
    counted = [what for what in rows if "with compilation" in what]
    assert len(counted) == 2
    assert all(what.startswith("vgg16, 256 images, ") for what in counted)


def test_nothing_was_run():
    lines = summary.table({}, {}).splitlines()[2:]
    assert len(lines) == 9 + 2 + 1 + 2 + 2 + 3 + 3
    assert all("| not run |" in line for line in lines)
