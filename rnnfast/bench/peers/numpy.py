"""The loop in plain NumPy: rnnfast.reference, whose products are those of NumPy's BLAS.

The input's product and those of the weights' gradients are taken over all steps at once, as a
careful user of NumPy would; the compiled module takes no part.
"""

import importlib

import numpy as np

import rnnfast
from rnnfast.reference import scan


def start(threads):
    return {"numpy": np.__version__}  # its BLAS reads the environment


def lacks(row):
    return "options are compared with PyTorch alone" if row["option"] else None


def build(row, arrays, weights):
    spec = rnnfast.CELLS[row["cell"]]
    module = importlib.import_module("rnnfast.reference." + spec.function)
    options = dict(spec.options)
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    layers = [[weights[f"{kind}_l{k}"] for kind in kinds] for k in range(row["L"])]
    initial = [tuple(arrays[s + "0"][k] for s in spec.states) for k in range(row["L"])]
    x, dy, backward = arrays["x"], arrays["dy"], row["passed"] == "forward+backward"

    def forward():
        y, finals, tapes = x, [], []
        for parameters, states in zip(layers, initial, strict=True):
            entered = y
            y, last, kept = scan.forward(module, options, y, *parameters, states, keep=backward)
            finals.append(last)
            tapes.append((entered, kept))
        return y, finals, tapes

    def call():
        y, finals, tapes = forward()
        if not backward:
            return y, finals, None
        T, B = x.shape[:2]
        dvalues, gradients = dy, []
        for (W, R, *_), (entered, kept), last in zip(
            layers[::-1], tapes[::-1], finals[::-1], strict=True
        ):
            nothing = tuple(np.zeros_like(s) for s in last)
            dgx, dgh, first, _ = scan.backward(
                module, options, kept, entered, W, R, dvalues, nothing
            )
            rows_x, rows_h = dgx.reshape(T * B, -1), dgh.reshape(T * B, -1)
            dW = rows_x.T @ entered.reshape(T * B, -1)
            dR = rows_h.T @ kept.states[0][:-1].reshape(T * B, -1)
            dvalues = (rows_x @ W).reshape(entered.shape)
            gradients.append(((dW, dR, rows_x.sum(0), rows_h.sum(0)), first))
        return y, finals, (dvalues, gradients[::-1])

    def results(found):
        y, finals, back = found
        named = {"y": y}
        for k, letter in enumerate(spec.states):
            named[letter + "_n"] = np.stack([last[k] for last in finals])
        if back is not None:
            named["dx"] = back[0]
            for layer, (parameters, _) in enumerate(back[1]):
                for kind, array in zip(kinds, parameters, strict=True):
                    named[f"d:{kind}_l{layer}"] = array
            for k, letter in enumerate(spec.states):
                named[f"d{letter}0"] = np.stack([first[k] for _, first in back[1]])
        return named

    return {"": (call, results)}
