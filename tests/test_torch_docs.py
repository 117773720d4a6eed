"""The examples of docs/pytorch.md run, one after the other."""

from __future__ import annotations

import re
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
