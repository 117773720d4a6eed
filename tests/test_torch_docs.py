"""The examples of docs/pytorch.md run, one after the other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import require

torch = require("torch")
require("core")

import rnnfast.torch  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs" / "pytorch.md"


def test_the_examples_run(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, fullgraph: model)
    names: dict[str, Any] = {
        "model": torch.nn.Sequential(torch.nn.GRU(3, 4)),
        "gru": rnnfast.torch.GRU(3, 4),
        "x": torch.randn(9, 3, 3),
        "h_0": torch.zeros(1, 3, 4),
        "done": torch.zeros(9, 3, dtype=torch.bool),
        "torch": torch,
        "rnnfast": rnnfast,
    }
    blocks = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert len(blocks) == 4
    with torch._dynamo.config.patch(allow_rnn=False):
        for block in blocks:
            # The layer of the first block has another size than the input of the last one.
            names["lstm"] = rnnfast.torch.LSTM(3, 4)
            exec(block, names)
    assert type(names["model"][0]) is rnnfast.torch.GRU
    assert names["states"].gates.shape == (1, 9, 3, 4, 4)
    assert rnnfast.torch.dispatch_counts()["fused"] >= 3


def reasons_in(tree: ast.Module) -> Iterator[ast.expr]:
    """What our code gives as a reason: returns beside others, assigns, or counts a call with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.returns is not None:
            if re.search(r"\| str\b|\bstr \|", ast.unparse(node.returns)):
                returns = (n for n in ast.walk(node) if isinstance(n, ast.Return))
                yield from (n.value for n in returns if n.value is not None)
        elif isinstance(node, ast.Assign):
            if ast.unparse(node.targets[0]) in ("reason", "REFUSED"):
                yield node.value
            elif ast.unparse(node.targets[0]) == "TRANSFORMS":
                yield from node.value.elts
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("count", "_traced")):
            yield from node.args[-1:]


def texts_of(value: ast.expr) -> Iterator[str]:
    """The texts among the values of an expression, with "..." for what is filled in."""
    if isinstance(value, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else "..." for p in value.values)
        yield "".join(map(str, parts))
    elif isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.Tuple):
        yield from texts_of(value.elts[-1])
    elif isinstance(value, ast.IfExp):
        yield from texts_of(value.body)
        yield from texts_of(value.orelse)


def test_the_page_has_every_reason() -> None:
    folder = Path(rnnfast.torch.__file__).parent
    trees = [ast.parse(path.read_text("utf-8")) for path in folder.glob("*.py")]
    found = {text for tree in trees for value in reasons_in(tree) for text in texts_of(value)}
    section = PAGE.read_text("utf-8").split("`last_reason()` is one of these")[1].split("\n## ")[0]
    told = set(re.findall(r"`([^`]+)`", section))
    # A dtype alone is a reason too, and the page gives an example.
    assert told == found - {"..."} | {"torch.bfloat16"}
