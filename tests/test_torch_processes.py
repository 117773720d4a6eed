"""`rnnfast.torch` in several processes: DDP, forked children, loaders, and the order of imports."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import require

torch = require("torch")
require("core")

import torch_pairs as pairs  # noqa: E402

import rnnfast.torch as ours  # noqa: E402

ROOT = Path(__file__).parents[1]


def python(*arguments: str, **variables: str) -> str:
    """Run Python and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "order", ["import torch, rnnfast.torch", "import rnnfast.torch, torch", "import rnnfast, torch"]
)
def test_either_may_be_imported_first(order: str) -> None:
    text = python(
        "-c",
        f"{order}\nimport rnnfast.torch as r\nl = r.LSTM(3, 64); x = torch.randn(50, 32, 3)\n"
        "l(x)[0].sum().backward(); torch.nn.LSTM(3, 64)(x); print(r.dispatch_counts())",
    )
    assert text.strip() == "{'fused': 1, 'composed': 0, 'stock': 0}"


def test_rnnfast_alone_does_not_import_pytorch() -> None:
    assert python("-c", "import sys, rnnfast; print('torch' in sys.modules)").strip() == "False"


def test_a_forked_child() -> None:
    code = """
import os, torch, rnnfast.torch as r
torch.manual_seed(0)
layer, x = r.GRU(8, 128), torch.randn(40, 64, 8)
def run():
    layer.zero_grad()
    y = layer(x)[0]
    y.sum().backward()
    return [y.detach(), *(p.grad.clone() for p in layer.parameters())]
def infer():
    with torch.no_grad():
        return [layer(x)[0]]
first, inferred = run(), infer()
def in_a_child(call, expected):
    child = os.fork()
    if child == 0:
        before = r.dispatch_counts()
        found = call()
        fused = r.dispatch_counts() == before | {"fused": before["fused"] + 1}
        # Looked at without PyTorch's threads, which a child does not have.
        same = all((a.numpy() == b.numpy()).all() for a, b in zip(found, expected, strict=True))
        os._exit(0 if same and fused else 3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def train():
    torch.set_num_threads(1)  # PyTorch's own operators need it in a fork
    return run()
print(torch.get_num_threads(), in_a_child(infer, inferred), in_a_child(train, first))
"""
    # On two threads a child infers, on one it trains.
    assert python("-c", code, OMP_NUM_THREADS="2").strip() == "2 0 0"


class Rows(torch.utils.data.Dataset):
    """Rows made by a layer inside the worker."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layer = ours.LSTM(3, 4)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, k: int) -> Any:
        with torch.no_grad(), pairs.taken("fused"):
            return self.layer(torch.full((5, 3), float(k)))[0]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_loader_workers(context: str) -> None:
    rows = Rows()
    expected = torch.stack([rows[k] for k in range(4)])
    loader = torch.utils.data.DataLoader(
        rows, batch_size=4, num_workers=2, multiprocessing_context=context
    )
    assert torch.equal(next(iter(loader)), expected)


def learn(layer: Any, x: Any) -> None:
    torch.set_num_threads(1)
    for _ in range(3):
        layer.zero_grad()
        with pairs.taken("fused"):
            layer(x)[0].square().sum().backward()
        with torch.no_grad():
            for p in layer.parameters():
                p -= 0.01 * p.grad


def test_a_child_trains_the_parameters_that_it_shares() -> None:
    torch.manual_seed(0)
    layer, x = ours.GRU(3, 4), torch.randn(5, 2, 3)
    alone = copy.deepcopy(layer)
    with torch.no_grad():
        before = layer(x)[0]
    # Which moves the parameters that this process has been using.
    child = torch.multiprocessing.get_context("spawn").Process(target=learn, args=(layer, x))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    learn(alone, x)
    with torch.no_grad():
        after, expected = layer(x)[0], alone(x)[0]
    assert torch.equal(after, expected)
    assert not torch.equal(after, before)


GRADIENTS = """
import sys, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
import rnnfast.torch as r

rank, size, port, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
distributed.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size
)
torch.set_num_threads(1)
torch.manual_seed(0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = r.LSTM(3, 8, 2, bidirectional=True)
        self.cell = r.GRUCell(16, 8)

    def forward(self, x):
        y, h = self.layer(x)[0], None
        for step in y:
            h = self.cell(step, h)
        return h


model = Model().double()
x = torch.randn(7, 6, 3, dtype=torch.float64)
parallel = DistributedDataParallel(model)
parallel(x[:, rank::size]).square().mean().backward()
# The layer, and each step of the cell.
assert r.dispatch_counts() == {"fused": 8, "composed": 0, "stock": 0}
if rank == 0:
    torch.save({name: p.grad for name, p in model.named_parameters()}, path)
# PyTorch's thread puts its last all-reduce away late; in an interpreter that ends, that aborts.
distributed.barrier()
distributed.destroy_process_group()
"""


def test_two_processes_reach_the_gradients_of_one(tmp_path: Path) -> None:
    found = []
    for size in (1, 2):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        path = tmp_path / f"{size}.pt"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", GRADIENTS, str(rank), str(size), str(port), str(path)],
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
            )
            for rank in range(size)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
        found.append(torch.load(path, weights_only=True))
    one, two = found
    assert list(one) == list(two)
    for name, gradient in one.items():
        scale = gradient.abs().max()
        pairs.alike(two[name] / scale, gradient / scale, name)


SHARDED = """
import copy, sys, torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
import rnnfast.torch as r

distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
torch.manual_seed(0)
whole = r.accelerate(nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 8, 2)).double())
sharded = copy.deepcopy(whole)
mesh = init_device_mesh("cpu", (1,))
fully_shard(sharded[1], mesh=mesh)
fully_shard(sharded, mesh=mesh)
x = torch.randn(5, 2, 3, dtype=torch.float64)
for _ in range(2):
    for model in (whole, sharded):
        model.zero_grad()
        model(x)[0].square().sum().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
assert r.dispatch_counts() == {"fused": 4, "composed": 0, "stock": 0}, r.last_reason()
for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
    assert torch.equal(q.full_tensor(), p)
distributed.destroy_process_group()
"""


def test_parameters_that_are_gathered_and_freed(tmp_path: Path) -> None:
    # FSDP frees what it gathered after each pass, and gathers it anew.
    python("-W", "ignore", "-c", SHARDED, str(tmp_path / "store"))


def test_the_ddp_example_learns() -> None:
    text = python(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        str(ROOT / "examples" / "torch_ddp.py"),
        OMP_NUM_THREADS="1",
    )
    losses = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("step")]
    assert losses[-1] < losses[0] / 2
    assert "{'fused': 41, 'composed': 0, 'stock': 0}" in text


@pytest.mark.slow
def test_the_benchmark_s_rehearsal() -> None:
    script = ROOT / "benchmarks" / "torch_module.py"
    text = python(str(script), "--tiny", "--seconds", "0.02", OMP_WAIT_POLICY="PASSIVE")
    rows = [json.loads(line) for line in text.splitlines()]
    kinds = ["header", "step", "module", "packed", "update", "model"]
    assert list(dict.fromkeys(row["row"] for row in rows)) == kinds
    models = [row for row in rows if row["row"] == "model"]
    assert {row["model"] for row in models} == {"Tagger", "Classifier"}
    for row in models:
        # Of eight tags, and of four classes.
        assert min(row["accuracy_ours"], row["accuracy_torch"]) > 0.6
