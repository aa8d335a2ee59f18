"""The page of CIFAR-10's rows, from a few made-up lines."""

import cifar10_page
import cifar10_rows
import rows
from cifar10_rows import Dense


def network(accuracy, before=None, macs=100, params=50):
    found = {"test_accuracy": accuracy, "macs": macs, "params": params}
    return found if before is None else {**found, "test_accuracy_before_finetuning": before}


def add(case, method, seed, pruned, out, **baselines):
    made = cifar10_rows.row(case, method, seed, "short")
    found = {
        "dense": network(0.9),
        "pruned": pruned,
        "baselines": baselines,
        "search": {"device": "cpu, 2 cores"},
    }
    rows.add(made.name, found, out)


def cells(page, beginning):
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {beginning} |")]
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_page_puts_measured_lines_below_published_ones(tmp_path):
    case = cifar10_rows.CASES[0]  # ResNet-20, 73 % of the multiply-adds
    uniform = network(0.87, 0.2, 70, 30)
    add(
        case,
        "magnitude",
        0,
        network(0.88, 0.3, 73, 35),
        tmp_path,
        uniform_l1=uniform,
        global_l1=uniform,
        random=uniform,
    )
    add(case, "mcts", 0, network(0.89, 0.5, 72, 20), tmp_path)
    add(case, "mcts", 1, network(0.91, 0.4, 71, 25), tmp_path)
    rows.add(
        Dense("resnet20", 1, "short").name,
        {"accuracy": {"validation": 0.85, "test": 0.9}, "device": "cpu, 2 cores"},
        tmp_path,
    )
    text = cifar10_page.write(tmp_path)
    assert (tmp_path / "README.md").read_text() == text
    assert (tmp_path / "accuracy.png").stat().st_size > 1000
    what = "resnet20, 73 % of multiply-adds"
    assert cells(text, f"{what}: mcts")[1:] == [
        *("short", "2", "90.00 ± 0.00", "45.00 ± 7.07", "90.00 ± 1.41", "0.00 ± 1.41"),
        *("71.50 ± 0.71", "45.00 ± 7.07"),
    ]
    assert cells(text, f"{what}: uniform L1")[1:] == [
        *("short", "1", "90.00", "20.00", "87.00", "-3.00", "70.00", "60.00"),
    ]
    assert cells(text, f"{what}: FastNAS, ModelOpt's notebook, published")[3:7] == [
        *("90.97", "", "90.28", "-0.69"),
    ]
    assert cells(text, f"{what}: crl, coarse")[1:] == ["", "0", *["not run"] * 6]
    assert cells(text, "resnet20")[1:] == ["short", "1", "85.00", "90.00"]
    assert cells(text, "resnet56")[1:] == ["", "0", "not run", "not run"]
    assert "Device: cpu, 2 cores." in text


def test_networks_with_a_teacher_have_lines_of_their_own(tmp_path):
    case = next(case for case in cifar10_rows.CASES if case[1:4] == ("resnet20", "macs", 20))
    made = cifar10_rows.row(case, "magnitude", 0, "short", 0.5)
    assert "--distill 0.5" in made.command
    small = network(0.8, 0.1, 20, 10)
    baselines = dict.fromkeys(cifar10_rows.BASELINES, small)
    found = {"dense": network(0.9), "pruned": small, "search": {"device": "cpu"}}
    rows.add(made.name, {**found, "baselines": baselines}, tmp_path)
    page = cifar10_page.page(tmp_path)
    assert cells(page, "resnet20, 20 % of multiply-adds: global L1, taught")[5] == "80.00"
    assert cells(page, "resnet20, 20 % of multiply-adds: global L1")[5] == "not run"


def test_every_published_line_belongs_to_a_case():
    cases = {(case.model, case.cost, case.left) for case in cifar10_rows.CASES}
    assert set(cifar10_page.PUBLISHED) <= cases
