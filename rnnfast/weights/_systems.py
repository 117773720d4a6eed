"""How other systems keep the weights of a recurrent layer: one row per system, no code per pair.

Gate orders are not here but in `rnnfast.cells`; what is here is the form of the arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ..cells import CellSpec

__all__ = ["SYSTEMS", "Array", "Form", "Setting", "System"]


class Form(NamedTuple):
    """What is fixed about the parameters of a layer."""

    spec: CellSpec
    I: int
    H: int
    L: int
    D: int
    bias: bool
    dtype: np.dtype
    cell_clip: float | None = None


class Array(NamedTuple):
    """One array of a system.

    Attributes
    ----------
    name : str
        ``/`` goes down into a dict; with ``{gate}`` in it there is one array per gate.
    parts : str
        What it holds, along the input axis (weights) or the gate axis (biases): ``W``, ``R``;
        ``bW``, ``bR``; ``b``, one bias per gate: bW + bR, or bW where the gate keeps its bR apart;
        ``bn``, the bR of those gates.
    shape : str
        In the letters I (width of this layer's input), H, G, D. Without a D there is one array per
        direction.
    """

    name: str
    parts: str
    shape: str

    @property
    def weight(self) -> bool:
        """Whether this is a matrix, not a bias."""
        return not self.parts.startswith("b")


class Setting(NamedTuple):
    """A setting of the other system on which the function depends that its weights stand for.

    Attributes
    ----------
    default : object
        What the system takes where nothing is said.
    needed : object
        What it must be for its function to be ours.
    why : str
        Why nothing else will do.
    """

    default: Any
    needed: Any
    why: str = "it computes another function of the same weights"


def _nothing(form: Form) -> dict[str, Setting]:
    return {}


class System(NamedTuple):
    """What is fixed about a system.

    Attributes
    ----------
    title : str
        Its name and the classes meant.
    source : str
        Where this was read.
    arrangement : {"names", "cells", "layers", "lists", "vector"}
        How the arrays of all layers and directions come together: a dict by PyTorch's names; a list
        of dicts per layer and direction; a list of dicts per layer; a list of lists per layer; one
        vector, all weights before all biases.
    transposed : bool
        Whether the input axis of a matrix is in front of gates and units.
    biased : bool
        Whether its layers always have biases.
    layouts : mapping of str to tuple of Array
        By the function of the cell.
    absent : mapping of str to str
        Why a cell (by its name or its function) has no row in the table of gate orders.
    settings : callable
        From the form to the settings by name.
    added : mapping of str to float
        What the system adds to the bias of a gate at run time.
    adding : str
        The setting that says how much, where the user has a say.
    ignored : tuple of str
        Settings that make no difference to the weights or to the function.
    carry : str
        The states in the system's order.
    foreign : mapping of str to str
        Arrays that its layers may have and ours cannot, and why not.
    variants : tuple of (function, Array, str)
        Arrays in a shape that means another function, and which.
    renamed : mapping of str to str
        Names that the pattern does not give.
    """

    title: str
    source: str
    arrangement: str
    transposed: bool
    biased: bool
    layouts: Mapping[str, tuple[Array, ...]]
    absent: Mapping[str, str] = MappingProxyType({})
    settings: Callable[[Form], dict[str, Setting]] = _nothing
    added: Mapping[str, float] = MappingProxyType({})
    adding: str = ""
    ignored: tuple[str, ...] = ()
    carry: str = "h c"
    foreign: Mapping[str, str] = MappingProxyType({})
    variants: tuple[tuple[str, Array, str], ...] = ()
    renamed: Mapping[str, str] = MappingProxyType({})


_PROJECTION = "projections have no kernel yet"
_PEEPHOLES = "peepholes have no kernel"
_RESET_FIRST = "applies the reset gate before the recurrent product, another function"


def _phi(form: Form) -> str:
    """Return the name of the candidate's function."""
    return form.spec.options.get("nonlinearity", "tanh")


def _pytorch_settings(form: Form) -> dict[str, Setting]:
    if form.spec.function == "rnn":
        return {"nonlinearity": Setting("tanh", _phi(form))}
    return {"proj_size": Setting(0, 0, _PROJECTION)} if form.spec.function == "lstm" else {}


def _keras_settings(form: Form) -> dict[str, Setting]:
    settings = {
        "activation": Setting("tanh", _phi(form)),
        "go_backwards": Setting(False, False, "it runs from the end and returns y reversed"),
    }
    if form.spec.function != "rnn":
        settings["recurrent_activation"] = Setting("sigmoid", "sigmoid")
    if form.spec.function == "gru":
        why = f"a GRU with reset_after=False {_RESET_FIRST}"
        settings["reset_after"] = Setting(True, True, why)
    return settings


def _onnx_settings(form: Form) -> dict[str, Setting]:
    own = {
        "rnn": [_phi(form).capitalize()],
        "lstm": ["Sigmoid", "Tanh", "Tanh"],
        "gru": ["Sigmoid", "Tanh"],
    }[form.spec.function]
    default = ["Tanh"] if form.spec.function == "rnn" else own
    settings = {
        "hidden_size": Setting(form.H, form.H, "that is the H of the layer"),
        "direction": Setting(
            "forward",
            "bidirectional" if form.D == 2 else "forward",
            "the layer runs forward, and backward too if it is bidirectional",
        ),
        "activations": Setting(default * form.D, own * form.D),
        "activation_alpha": Setting(None, None),
        "activation_beta": Setting(None, None),
        "clip": Setting(None, None, "no kernel clips what enters the gates"),
    }
    if form.spec.function == "lstm":
        settings["input_forget"] = Setting(0, 0, "no kernel couples input and forget gate")
    if form.spec.function == "gru":
        why = f"a GRU with linear_before_reset=0, the operator's default, {_RESET_FIRST}"
        settings["linear_before_reset"] = Setting(0, 1, why)
    return settings


def _flax_settings(form: Form) -> dict[str, Setting]:
    settings = {"activation_fn": Setting("tanh", _phi(form))}
    if form.spec.function == "rnn":
        settings["residual"] = Setting(False, False, "no kernel adds h inside the activation")
    else:
        settings["gate_fn"] = Setting("sigmoid", "sigmoid")
    return settings


def _tensorflow1_settings(form: Form) -> dict[str, Setting]:
    settings = {"activation": Setting("tanh", _phi(form))}
    if form.spec.function == "lstm":
        settings |= {
            "use_peepholes": Setting(False, False, _PEEPHOLES),
            "num_proj": Setting(None, None, _PROJECTION),
            "cell_clip": Setting(None, form.cell_clip, "that is the bound of the layer"),
        }
    return settings


def _mlx_settings(form: Form) -> dict[str, Setting]:
    return {"nonlinearity": Setting("tanh", _phi(form))} if form.spec.function == "rnn" else {}


def _every(*arrays: Array) -> dict[str, tuple[Array, ...]]:
    """Return one layout for all cells."""
    return {"rnn": arrays, "lstm": arrays, "gru": arrays}


_SYSTEMS = {
    "pytorch": System(
        title="PyTorch: torch.nn.RNN, LSTM, GRU (state_dict)",
        source="torch/nn/modules/rnn.py",
        arrangement="names",
        transposed=False,
        biased=False,
        layouts=_every(
            Array("weight_ih", "W", "G*H I"),
            Array("weight_hh", "R", "G*H H"),
            Array("bias_ih", "bW", "G*H"),
            Array("bias_hh", "bR", "G*H"),
        ),
        settings=_pytorch_settings,
        foreign={"weight_hr": _PROJECTION},
    ),
    "keras": System(
        title="Keras: SimpleRNN, LSTM, GRU(reset_after=True), Bidirectional of them (get_weights)",
        source="keras/src/layers/rnn/{simple_rnn,lstm,gru,bidirectional}.py",
        arrangement="lists",
        transposed=True,
        biased=False,
        layouts={
            **_every(
                Array("kernel", "W", "I G*H"),
                Array("recurrent_kernel", "R", "H G*H"),
                Array("bias", "b", "G*H"),
            ),
            "gru": (
                Array("kernel", "W", "I G*H"),
                Array("recurrent_kernel", "R", "H G*H"),
                Array("bias", "bW bR", "2 G*H"),
            ),
        },
        settings=_keras_settings,
        variants=(
            (
                "gru",
                Array("bias", "b", "G*H"),
                f"that is a GRU with reset_after=False, which {_RESET_FIRST}",
            ),
        ),
    ),
    "onnx": System(
        title="ONNX: operators RNN, LSTM, GRU(linear_before_reset=1) (node inputs W, R, B)",
        source="docs/Operators.md, operators RNN, LSTM, GRU, opset 22",
        arrangement="layers",
        transposed=False,
        biased=False,
        layouts=_every(
            Array("W", "W", "D G*H I"),
            Array("R", "R", "D G*H H"),
            Array("B", "bW bR", "D 2*G*H"),
        ),
        settings=_onnx_settings,
        ignored=("layout",),  # the axes of X, Y and the states
        foreign={"P": _PEEPHOLES},
    ),
    "cudnn": System(
        title="cuDNN: modes RNN_RELU, RNN_TANH, LSTM, GRU with two biases (the weight space)",
        source="jax/experimental/rnn.py and PyTorch's flat weights; cuDNN calls the layout opaque",
        arrangement="vector",
        transposed=False,
        biased=False,
        layouts=_every(
            Array("W", "W", "G*H I"),
            Array("R", "R", "G*H H"),
            Array("bW", "bW", "G*H"),
            Array("bR", "bR", "G*H"),
        ),
    ),
    "onednn": System(
        title="oneDNN: vanilla RNN, LSTM, linear-before-reset GRU (formats ldigo and ldgo)",
        source="doc/primitives/rnn.md",
        arrangement="layers",
        transposed=True,
        biased=False,
        layouts={
            **_every(
                Array("weights_layer", "W", "1 D I G H"),
                Array("weights_iter", "R", "1 D H G H"),
                Array("bias", "b", "1 D G H"),
            ),
            "gru": (
                Array("weights_layer", "W", "1 D I G H"),
                Array("weights_iter", "R", "1 D H G H"),
                Array("bias", "b bn", "1 D G+1 H"),
            ),
        },
        foreign={"weights_peephole": _PEEPHOLES, "weights_projection": _PROJECTION},
        variants=(
            (
                "gru",
                Array("bias", "b", "1 D G H"),
                f"that is the plain GRU of oneDNN, which {_RESET_FIRST}",
            ),
        ),
    ),
    "flax_linen": System(
        title="Flax linen: SimpleCell, LSTMCell and OptimizedLSTMCell, GRUCell (params)",
        source="flax/linen/recurrent.py",
        arrangement="cells",
        transposed=True,
        biased=True,
        layouts={
            "rnn": (
                Array("i/kernel", "W", "I H"),
                Array("i/bias", "b", "H"),
                Array("h/kernel", "R", "H H"),
            ),
            "lstm": (
                Array("i{gate}/kernel", "W", "I H"),
                Array("h{gate}/kernel", "R", "H H"),
                Array("h{gate}/bias", "b", "H"),
            ),
            "gru": (
                Array("i{gate}/kernel", "W", "I H"),
                Array("i{gate}/bias", "b", "H"),
                Array("h{gate}/kernel", "R", "H H"),
                Array("hn/bias", "bn", "H"),
            ),
        },
        settings=_flax_settings,
        carry="c h",
    ),
    "flax_nnx": System(
        title="Flax nnx: SimpleCell, OptimizedLSTMCell, GRUCell (pure dict of the state)",
        source="flax/nnx/nn/recurrent.py",
        arrangement="cells",
        transposed=True,
        biased=True,
        layouts={
            **_every(
                Array("dense_i/kernel", "W", "I G*H"),
                Array("dense_i/bias", "b", "G*H"),
                Array("dense_h/kernel", "R", "H G*H"),
            ),
            "lstm": (
                Array("dense_i/kernel", "W", "I G*H"),
                Array("dense_h/kernel", "R", "H G*H"),
                Array("dense_h/bias", "b", "G*H"),
            ),
        },
        settings=_flax_settings,
        carry="c h",
    ),
    "flax_nnx_split": System(
        title="Flax nnx: LSTMCell, each gate apart (pure dict of the state)",
        source="flax/nnx/nn/recurrent.py",
        arrangement="cells",
        transposed=True,
        biased=True,
        layouts={
            "lstm": (
                Array("i{gate}/kernel", "W", "I H"),
                Array("h{gate}/kernel", "R", "H H"),
                Array("h{gate}/bias", "b", "H"),
            ),
        },
        absent={
            "rnn": 'only LSTMCell keeps its gates apart; take "flax_nnx"',
            "gru": 'only LSTMCell keeps its gates apart; take "flax_nnx"',
        },
        settings=_flax_settings,
        carry="c h",
        renamed={"if": "if_"},
    ),
    "haiku": System(
        title="Haiku: VanillaRNN(double_bias=True), LSTM (params below the module's name)",
        source="haiku/_src/recurrent.py",
        arrangement="cells",
        transposed=True,
        biased=True,
        layouts={
            "rnn": (
                Array("linear/w", "W", "I H"),
                Array("linear/b", "bW", "H"),
                Array("linear_1/w", "R", "H H"),
                Array("linear_1/b", "bR", "H"),
            ),
            "lstm": (
                Array("linear/w", "W R", "I+H G*H"),
                Array("linear/b", "b", "G*H"),
            ),
        },
        absent={
            "rnn_tanh": "its VanillaRNN has relu and nothing else",
            "gru": f"its GRU {_RESET_FIRST}",
        },
        added={"f": 1.0},
    ),
    "tensorflow1": System(
        title="TensorFlow 1: BasicRNNCell, BasicLSTMCell, LSTMCell (variables)",
        source="tensorflow/python/keras/layers/legacy_rnn/rnn_cell_impl.py",
        arrangement="cells",
        transposed=True,
        biased=True,
        layouts=_every(
            Array("kernel", "W R", "I+H G*H"),
            Array("bias", "b", "G*H"),
        ),
        absent={"gru": f"its GRUCell {_RESET_FIRST}"},
        settings=_tensorflow1_settings,
        added={"f": 1.0},
        adding="forget_bias",
        carry="c h",
        foreign={
            "w_i_diag": _PEEPHOLES,
            "w_f_diag": _PEEPHOLES,
            "w_o_diag": _PEEPHOLES,
            "projection": _PROJECTION,
        },
    ),
    "haste": System(
        title="haste: haste_pytorch.LSTM, GRU (parameters)",
        source="frameworks/pytorch/{lstm,gru}.py",
        arrangement="cells",
        transposed=True,
        biased=True,
        layouts={
            "lstm": (
                Array("kernel", "W", "I G*H"),
                Array("recurrent_kernel", "R", "H G*H"),
                Array("bias", "b", "G*H"),
            ),
            "gru": (
                Array("kernel", "W", "I G*H"),
                Array("recurrent_kernel", "R", "H G*H"),
                Array("bias", "bW", "G*H"),
                Array("recurrent_bias", "bR", "G*H"),
            ),
        },
        absent={"rnn": "it has no plain recurrent layer"},
    ),
    "cs231n": System(
        title="CS231n, assignment 3: rnn_forward, lstm_forward (arguments)",
        source="cs231n/rnn_layers.py",
        arrangement="cells",
        transposed=True,
        biased=True,
        layouts=_every(
            Array("Wx", "W", "I G*H"),
            Array("Wh", "R", "H G*H"),
            Array("b", "b", "G*H"),
        ),
        absent={"rnn_relu": "its rnn_forward has tanh and nothing else", "gru": "it has no GRU"},
    ),
    "mlx": System(
        title="MLX: mlx.nn.RNN, LSTM, GRU (parameters)",
        source="mlx/nn/layers/recurrent.py",
        arrangement="cells",
        transposed=False,
        biased=False,
        layouts={
            "rnn": (
                Array("Wxh", "W", "H I"),
                Array("Whh", "R", "H H"),
                Array("bias", "b", "H"),
            ),
            "lstm": (
                Array("Wx", "W", "G*H I"),
                Array("Wh", "R", "G*H H"),
                Array("bias", "b", "G*H"),
            ),
            "gru": (
                Array("Wx", "W", "G*H I"),
                Array("Wh", "R", "G*H H"),
                Array("b", "b", "G*H"),
                Array("bhn", "bn", "H"),
            ),
        },
        settings=_mlx_settings,
    ),
    "equinox": System(
        title="Equinox: equinox.nn.LSTMCell, GRUCell (fields)",
        source="equinox/nn/_rnn.py",
        arrangement="cells",
        transposed=False,
        biased=False,
        layouts={
            "lstm": (
                Array("weight_ih", "W", "G*H I"),
                Array("weight_hh", "R", "G*H H"),
                Array("bias", "b", "G*H"),
            ),
            "gru": (
                Array("weight_ih", "W", "G*H I"),
                Array("weight_hh", "R", "G*H H"),
                Array("bias", "b", "G*H"),
                Array("bias_n", "bn", "H"),
            ),
        },
        absent={"rnn": "it has no plain recurrent cell"},
    ),
}

SYSTEMS: Mapping[str, System] = MappingProxyType(_SYSTEMS)
"""All systems by name."""
