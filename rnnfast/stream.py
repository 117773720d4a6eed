"""Running a layer step by step, the state carried from call to call."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy import ndarray

from . import _backend, _values
from ._forms import TIME_FIRST, UNBATCHED
from ._shapes import Checker, check_index_range, is_index_array
from .errors import ArgumentError, DeviceError, DTypeError, IndexRangeError
from .layers import Recurrent, State

__all__ = ["Stream"]

_WHO = "rnnfast.Stream"


class Stream:
    """A frozen copy of a layer that runs a step, or a few steps, at a time and carries the state.

    Bits are those of the layer's own call over the whole sequence, however it is cut (but for
    ``device="numpy"``). The layer is evaluated: dropout is off, zoneout takes its expectation,
    residual connections and `cell_clip` are as in the layer. With `out` given a step allocates no
    memory. A stream may be used from any thread, but from one at a time.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        Of one direction. Its parameters and options are copied: later writes into the layer do not
        reach the stream.
    batch_size : int or None
        B, rows that run side by side; None for a single row without the axis B, in x, y and state.
    state : (L, B, H), for the LSTM (h, c) of that shape each; optional
        Where to start; the layer's initial state, zero or learned, if omitted. A None in (h, c) is
        zero.
    threads : int or None
        Threads of a call; None for as many as pay. More than one allocate on their own, and seldom
        pay for a step.

    Raises
    ------
    ArgumentError
        If the layer is bidirectional, for its second direction begins at the last step, which is
        not there yet; if `batch_size` or `threads` is below 1.
    DeviceError
        If the layer has ``device="cuda"``.
    ShapeError, DTypeError
        Name the argument, what came and what was expected.

    Examples
    --------
    >>> import numpy as np, rnnfast
    >>> stream = rnnfast.Stream(rnnfast.LSTM(8, 16, seed=0))
    >>> y = np.empty((1, 16), np.float32)
    >>> for _ in range(3):
    ...     _ = stream.step(np.ones((1, 8), np.float32), out=y)
    >>> stream.t
    3
    """

    def __new__(cls, layer: Recurrent, *args: Any, **options: Any) -> Stream:
        """Make one of the class that runs on the layer's back end."""
        if not isinstance(layer, Recurrent):
            raise DTypeError(
                f"{_WHO}: layer is of type {type(layer).__qualname__}, expected RNN, LSTM or GRU."
            )
        engine = _backend.resolve(layer.device, _WHO)
        if not hasattr(engine, "Stream"):
            raise DeviceError(
                f'{_WHO}: the layer has device="cuda", and a stream runs on the CPU: a step is '
                'done there before a GPU has begun. Make the layer with device="auto" or "cpu".'
            )
        return engine.Stream.__new__(_kind(cls._public or cls, engine))  # type: ignore[arg-type]

    _public: type[Stream] | None = None
    """The class that was asked for, in the one that runs on a back end."""
    _batch_size: int | None = None

    def __init__(
        self,
        layer: Recurrent,
        batch_size: int | None = 1,
        *,
        state: State | None = None,
        threads: int | None = 1,
    ) -> None:
        stack, parameters = layer._stack, layer.parameters
        if "_stack" in self.__dict__:
            raise RuntimeError(f"{_WHO}: __init__ was called again, expected once. Make another.")
        if stack.D == 2:
            raise ArgumentError(
                f"{_WHO}: the layer has bidirectional=True, expected one direction: the second one "
                "begins at the last step, which a stream has not seen."
            )
        if batch_size is not None:
            batch_size = _values.at_least(_WHO, "batch_size", batch_size, 1)
            _values.below(_WHO, "batch_size", batch_size, 31)
        self._stack, self._batch_size, self._text = stack, batch_size, repr(layer)
        self._form = UNBATCHED if batch_size is None else TIME_FIRST
        check = self._checker("")
        opened = self._open(
            stack.name,
            tuple(rows[0] for rows in parameters.rows),
            batch_size,
            stack.batch_first,
            stack.residual,
            stack.settings.zoneout,
            stack.settings.cell_clip,
            parameters.initial,
            check.threads(threads),
        )
        stack.agreed(opened)
        if state is not None:
            self._set_state(check, "{}0", state)

    # What a back end brings: the contract stands in `_core.pyi`, on Stream.
    _open: Any
    _take: Any
    _restart: Any
    _read: Any
    _write: Any
    t: int
    """Steps so far: since the stream was made, or last reset as a whole."""

    @property
    def batch_size(self) -> int | None:
        """B, or None for a single row without that axis."""
        return self._batch_size

    # Running -------------------------------------------------------------------------------------

    def step(self, x: ndarray | int, out: ndarray | None = None) -> ndarray:
        """Run one step.

        Parameters
        ----------
        x : (B, I), or (B,) of an integer dtype
            (I,), or an index as a number, if `batch_size` is None. What is taken as it is, without
            a copy: the layer's dtype, or int64, the last axis dense.
        out : (B, H), optional
            Where y goes, apart from x; (H,) if `batch_size` is None. A new array if omitted.

        Returns
        -------
        y : (B, H)
            The last layer's h; `out` itself if it was given.

        Raises
        ------
        ShapeError, DTypeError, IndexRangeError, ArgumentError
            Name the array, what came and what was expected. The state is then as it was.
        RuntimeError
            If another thread is in a call of this stream.
        """
        return self._checked("step", x, out)

    def run(self, x: ndarray, out: ndarray | None = None) -> ndarray:
        """Run a chunk of steps: what as many calls of `step` would, and faster.

        Parameters
        ----------
        x : (T, B, I), or (T, B) of an integer dtype
            (B, T, ...) if the layer is `batch_first`; (T, I) or (T,) if `batch_size` is None.
        out : (T, B, H), optional
            Where y goes, in the form of x, apart from x; a new array if omitted.

        Returns
        -------
        y : (T, B, H)
            `out` itself if it was given.

        Raises
        ------
        ShapeError, DTypeError, IndexRangeError, ArgumentError, RuntimeError
            As `step`.
        """
        return self._checked("run", x, out)

    def _checked(self, name: str, x: Any, out: Any) -> ndarray:
        """Run what the back end did not take as it was: check it in words, copy where needed."""
        check = self._checker(f".{name}")
        steps = self._form.rows
        if name == "run":
            steps = f"{steps} T" if self._stack.batch_first and steps else f"T {steps}"
        if steps == "" and isinstance(x, (int, np.integer)) and not isinstance(x, bool):
            if not 0 <= x < self._stack.I:
                raise IndexRangeError(
                    f"{check.who}: x is the index {x}, expected 0 <= index < {self._stack.I}; "
                    f"I={self._stack.I} from input_size."
                )
            x = np.asarray(x, np.int64)
        if is_index_array(x):
            x = check.indices("x", x, steps)
            x = check_index_range(check.who, "x", x, self._stack.I, "input_size")
        else:
            x = check.sequence("x", x, f"{steps} I")
        y = out
        if out is not None:
            y = check.out(out, f"{steps} H", {"x": x})
            if np.may_share_memory(y, x):
                y = np.empty(y.shape, y.dtype)  # they lie between each other
        y = self._stack.agreed(self._take(name, x, y))
        if out is None or y is out:
            return y
        out[...] = y
        return out

    # The state -----------------------------------------------------------------------------------

    def reset(self, rows: ndarray | None = None) -> None:
        """Go back to the initial state, zero or learned.

        Parameters
        ----------
        rows : (B,) bool, or (n,) integers, optional
            Rows to reset, by flag or by number; all, and `t` with them, if omitted.

        Raises
        ------
        ShapeError, DTypeError, IndexRangeError, ArgumentError
            If `rows` does not fit; nothing is reset then.
        RuntimeError
            If another thread is in a call of this stream.
        """
        self._checked_reset(rows)

    def _checked_reset(self, rows: Any) -> None:
        B = self._batch_size
        if rows is not None:
            check = self._checker(".reset")
            if B is None:
                raise ArgumentError(
                    f"{check.who}: rows is given, expected None: with batch_size=None there is a "
                    "single row."
                )
            if isinstance(rows, (int, np.integer)) and not isinstance(rows, bool):
                rows = np.asarray([rows])
            if is_index_array(rows):
                rows = check.indices("rows", rows, "n")
                numbers = check_index_range(check.who, "rows", rows, B, "batch_size", letter="B")
                rows = np.zeros(B, np.bool_)
                rows[numbers] = True
            else:
                rows = check.flags("rows", rows, "B", "where a row is reset")
                rows = np.require(rows, requirements=["C", "A", "E"])
        done = self._restart(rows)
        self._stack.agreed(done)

    @property
    def state(self) -> State:
        """The state after the last step, in the layer's form: a copy; may be set.

        (L, B, H), for the LSTM (h, c) of that shape each; (L, H) if `batch_size` is None.
        """
        states = self._read()
        whole = states[0] if len(states) == 1 else states
        return self._stack._unbatch(whole, self._form)

    @state.setter
    def state(self, state: State) -> None:
        check = self._checker(".state")
        if state is None:
            raise DTypeError(f"{check.who}: the state is None, expected arrays. Use reset().")
        self._set_state(check, "{}", state)

    def _set_state(self, check: Checker, pattern: str, state: Any) -> None:
        states = self._stack._states(check, pattern, state, self._form)
        self._stack.agreed(self._write(states))

    def _checker(self, speaker: str) -> Checker:
        check = self._stack._checker(f"{_WHO}{speaker}")
        check.bind("batch_size", B=1 if self._batch_size is None else self._batch_size)
        return check

    def __repr__(self) -> str:
        return f"<rnnfast stream of {self._text} (B={self._batch_size}, t={self.t})>"

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{_WHO}: a stream cannot be copied or pickled: its form belongs to this machine. Make "
            "another one of the layer, and give it this one's state."
        )


@functools.cache
def _kind(public: type[Stream], engine: Any) -> type[Stream]:
    """Join a public class with the stream of a back end, whose methods take the place of ours.

    So a call of `step` is one of the compiled module, with no Python in between. What a subclass
    has written itself stays.
    """
    quick = {
        name: method
        for name, method in vars(engine.Stream).items()
        if not name.startswith("__") and getattr(public, name, None) is getattr(Stream, name, None)
    }
    names = {"__doc__": public.__doc__, "__module__": public.__module__, "_public": public}
    return type(public.__name__, (public, engine.Stream), {**quick, **names})
