"""A structure as it is shown."""

import html5lib
import jax
import jax.numpy as jnp

import jaxprune

PARAMS = {
    "<script>alert(1)</script>": jnp.ones((4, 6)),
    "second & last": jnp.ones((6, 2)),
}


def structure():
    def apply(params, x):
        first, second = params.values()
        return jax.nn.relu(x @ first) @ second

    return jaxprune.trace(apply, PARAMS, jnp.ones((3, 4)))


def test_a_notebook_shows_a_table_of_the_groups():
    page = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(
        f"<!DOCTYPE html><html><head><title>t</title></head><body>{structure()._repr_html_()}"
        "</body></html>"
    )
    rows = [[cell.text or "" for cell in row] for row in page.iter("tr")]
    names = list(PARAMS)
    assert rows == [
        ["group", "channels", "parameters", "multiply-adds", "layers", "read by"],
        [names[0], "6", "36", "36", names[0], names[1]],
    ]
    assert not list(page.iter("script"))
    (frozen,) = page.iter("li")
    assert frozen.text.startswith(f"frozen: {names[1]} (2 channels): the function returns them")
    (total,) = page.iter("p")
    assert total.text == "1 groups, 6 channels, 36 parameters, 36 multiply-adds per example"


def test_a_terminal_shows_the_same_aligned():
    header, row, frozen, total = str(structure()).splitlines()
    for name, value in (("channels", "6"), ("parameters", "36"), ("multiply-adds", "36")):
        end = header.index(name) + len(name)
        assert row[:end].split()[-1] == value
    assert frozen.startswith("frozen: second & last")
    assert total.startswith("1 groups, 6 channels")
    assert repr(structure()) == str(structure())
