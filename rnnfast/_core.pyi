"""The compiled module. T steps, B batch, I input, H hidden, G gate blocks, S states, D directions.

One call is one layer, both directions as jobs of one region; the second runs reversed in time.
A call whose arguments are not as stated here returns None: `rnnfast._shapes` then says in words
what is wrong, or copies what needs copying. float is float32 or float64, the same in all arrays of
a call. With `cu_seqlens` in the options the input is flat: N rows for (T, B) everywhere, so that x
is (N, I) or (N,) and y (N, D*H).
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ._scan_options import ScanOptions

_Row: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]
_Threads: TypeAlias = int | tuple[int] | None  # n; (n,): as many as pay, at most n
_State: TypeAlias = tuple[np.ndarray | None, ...]
_DenseOrIndexed: TypeAlias = np.ndarray | tuple[np.ndarray, np.ndarray]

class Tape:
    """Memory kept from one forward call; borrows x, y and the parameters."""

    @property
    def cell(self) -> str: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def T(self) -> int: ...
    @property
    def B(self) -> int: ...
    @property
    def I(self) -> int: ...
    @property
    def H(self) -> int: ...
    @property
    def D(self) -> int: ...
    def states(self) -> tuple[np.ndarray, ...]: ...  # S arrays (D, T, B, H), flat (D, N, H)
    def gates(self) -> np.ndarray: ...  # (D, T, B, G, H), flat (D, N, G, H), activated

class Prepared:
    """Frozen, packed copy of the parameters of one layer."""

    @property
    def cell(self) -> str: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def I(self) -> int: ...
    @property
    def H(self) -> int: ...
    @property
    def D(self) -> int: ...
    def made_from(self, params: tuple[_Row, ...], /) -> bool: ...  # whether they hold it still

class TensorStack:
    """A stack of layers whose weights are parameters of a PyTorch module; calls of it."""

    def run(
        self,
        packed: tuple[Prepared | None, ...],  # of each layer; not looked at for T = B = 1
        parameters: dict[str, Any],  # of the module
        x: Any,
        hx: Any,  # as PyTorch's layer takes both
        batch_first: Any,  # in truth value
        grad: bool,  # whether gradients are on
        threads: int,  # at most; as many as pay
        /,
    ) -> tuple[Any, Any] | bool | None:
        """Return (y, state) as PyTorch's layer does.

        Or True where a tensor needs a gradient: all was checked, nothing has run. False where what
        is packed is not of the weights as they are. None for what is not plain: tensors that are
        not dense, of another class, dtype or shape, parameters elsewhere than they were.
        """

class Stream:
    """Layers of one direction that run a step, or a few, at a time and carry their state.

    `step`, `run` and `reset` are methods of `rnnfast.Stream`. What they do not take as it is they
    hand to `_checked(name, x, out)` and `_checked_reset(rows)` there. Everything but `t` raises
    RuntimeError where another thread is in a call.
    """

    def _open(
        self,
        cell: str,
        layers: tuple[_Row, ...],  # of each layer, copied; I of the second and later is H
        batch_size: int | None,  # None: arrays have no axis B
        batch_first: bool,  # `run` takes (B, T, ...)
        residual: bool,
        zoneout: tuple[float, ...] | None,  # per state, its expectation
        cell_clip: float,  # 0 is none
        initial: tuple[np.ndarray, ...] | None,  # S arrays (L, H), None is zero
        threads: int | None,
        /,
    ) -> bool | None: ...
    def step(self, x: np.ndarray | int, out: np.ndarray | None = None) -> np.ndarray: ...
    def run(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray: ...
    def reset(self, rows: np.ndarray | None = None) -> None: ...
    def _take(
        self,
        name: str,  # "step" or "run"
        x: np.ndarray | int,  # float, inner stride 1; or int64 in 0 ... I-1
        out: np.ndarray | None,  # inner stride 1, writable, its extent apart from that of x
        /,
    ) -> np.ndarray | None: ...
    def _restart(self, rows: np.ndarray | None, /) -> bool | None: ...  # (B,) bool, None is all
    def _read(self) -> tuple[np.ndarray, ...]: ...  # S arrays (L, B, H), copies
    def _write(self, states: _State, /) -> bool | None: ...  # S arrays (L, B, H), None is zero
    @property
    def t(self) -> int: ...

def forward(
    cell: str,
    x: np.ndarray,  # (T, B, I) float, inner stride 1; or (T, B) int64, C-contiguous, in 0 ... I-1
    params: tuple[_Row, ...] | Prepared,  # per direction W (G*H, I), R (G*H, H), bW, bR (G*H,)
    state: _State | None,  # S arrays (D, B, H), None is zero
    out: np.ndarray | None,  # (T, B, D*H), inner stride 1, writable, apart from x
    keep_tape: bool,
    threads: _Threads,
    options: ScanOptions | None = None,
    /,
) -> tuple[np.ndarray, tuple[np.ndarray, ...], Tape | None] | None: ...
def backward(
    tape: Tape,
    dy: np.ndarray | None,  # (T, B, D*H), inner stride 1, None is zero
    dstate: _State | None,  # S arrays (D, B, H), None is zero
    need_dx: bool,
    threads: _Threads,
    dstates: _State | None = None,  # S arrays (D, T, B, H), C-contiguous, None is zero
    dgates: np.ndarray | None = None,  # (D, T, B, G, H), C-contiguous
    need_dstate0: bool = True,
    /,
) -> (
    tuple[
        np.ndarray | None,  # dx (T, B, I)
        tuple[
            tuple[_DenseOrIndexed, np.ndarray, np.ndarray | None, np.ndarray | None], ...
        ],  # per direction dW, dR, dbW, dbR; indexed: dW[:, indices[j]] = rows[j]
        _State,  # S arrays (D, B, H), or S times None
        _State | None,  # in the form of options.reset_state
    ]
    | None
): ...
def between_layers(
    x: np.ndarray,  # (T, B, D*H), inner stride 1
    add: np.ndarray | None,  # the same, added after the mask
    H: int,
    p: float,  # probability of a zero; 0 is no mask
    seed: int,
    layer: int,
    t0: int,
    row_ids: np.ndarray | None,  # (B,) uint32
    cu_seqlens: np.ndarray | None,  # (B+1,) int64
    threads: _Threads,
    /,
) -> np.ndarray | None: ...
def prepare(cell: str, params: tuple[_Row, ...], /) -> Prepared | None: ...
def tensor_stack(
    tensor: Any,  # torch.Tensor
    cell: str,
    names: tuple[str, ...],
    known: tuple[Any, ...],  # by name, C-contiguous parameters or None
    rows: tuple[tuple[_Row, ...], ...],  # of each layer, arrays on the parameters' memory
    /,
) -> TensorStack | None: ...  # None too where PyTorch has no DLPack exchange API
def linear_forward(
    x: np.ndarray,  # (N, K)
    W: np.ndarray,  # (M, K)
    b: np.ndarray | None,  # (M,)
    threads: _Threads,
    /,
) -> np.ndarray | None: ...  # (N, M)
def linear_backward(
    x: np.ndarray,  # (N, K)
    W: np.ndarray,  # (M, K)
    dy: np.ndarray,  # (N, M)
    need_dx: bool,
    need_db: bool,
    threads: _Threads,
    /,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None] | None: ...  # dx, dW, db
def set_num_threads(n: int, /) -> None: ...
def get_num_threads() -> int: ...
def last_kernel() -> str: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def build_info() -> dict[str, Any]: ...
def cells() -> Sequence[dict[str, Any]]: ...
