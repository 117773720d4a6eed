"""Who is measured: rnnfast and its peers, one file each.

A peer's file is run by path, by the Python of that peer's environment, where neither rnnfast nor
anything beyond the peer and NumPy need be. It has

`start(threads) -> dict of str to str`
    Told once, before anything is built, how many threads to use; returns versions by name.
`lacks(row) -> str or None`
    Why it does not do a row, whose attributes `row` has by name; None if it does.
`build(row, arrays, weights) -> dict of str to (call, results)`
    The ways in which it does the row; "" is the usual one, the others have names. `call()` does the
    row once, all of it, and returns what `results` makes arrays of: named as
    `rnnfast.bench.check.reference` does, gradients of parameters as their weights with ``d:``
    before the name. Arrays and weights may be brought into the form that suits the peer: what is
    timed is `call`.

and `rnnfast.py` also `kernel() -> str`, the id of the kernel that ran last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

__all__ = ["OURS", "PEERS", "PLAIN", "Peer", "ours_in"]


@dataclass(frozen=True)
class Peer:
    """A peer.

    Attributes
    ----------
    name : str
    title : str
        As it stands in a table.
    file : Path
        Its file here.
    system : str
        In whose form it takes weights, a name of `rnnfast.weights.systems()`.
    complete : bool
        Whether it has a gradient for each of our biases.
    package : bool
        Whether it is part of rnnfast, and run from this very package.
    """

    name: str
    title: str
    file: Path
    system: str = "pytorch"
    complete: bool = True
    package: bool = False


_HERE = Path(__file__).resolve().parent

OURS = Peer("rnnfast", "rnnfast", _HERE / "rnnfast.py", package=True)
PLAIN = f"{OURS.name} plain"

PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        peer.name: peer
        for peer in (
            Peer("numpy", "NumPy loop", _HERE / "numpy.py", package=True),
            Peer("torch", "PyTorch", _HERE / "torch.py"),
            Peer("onnxruntime", "ONNX Runtime", _HERE / "onnxruntime.py", "onnx"),
            Peer("openvino", "OpenVINO", _HERE / "openvino.py", "onnx"),
            Peer("jax", "JAX", _HERE / "jax.py"),
            Peer("keras", "Keras on TensorFlow", _HERE / "keras.py", "keras", complete=False),
        )
    }
)
"""All peers by name."""


def ours_in(option: str, names: Iterable[str]) -> str | None:
    """Return which of a row's contenders is rnnfast as others are compared with it, None if none.

    The prepared layer, or the training of one. With the option "states" it is the plain call, for a
    prepared layer keeps nothing of a call.
    """
    known = set(names)
    if OURS.name in known:
        return OURS.name
    return PLAIN if option == "states" and PLAIN in known else None
