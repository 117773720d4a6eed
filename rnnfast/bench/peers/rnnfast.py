"""rnnfast itself: layers, prepared for inference and plain, and a stream for single steps."""

from functools import partial

import numpy as np

import rnnfast

KINDS = {"rnn": rnnfast.RNN, "lstm": rnnfast.LSTM, "gru": rnnfast.GRU}
DROPOUT, SEED = 0.25, 0  # as in rnnfast.bench.grid and problem


def start(threads):
    rnnfast.set_num_threads(threads)
    return {"rnnfast": rnnfast.__version__}


def lacks(row):
    return None


def kernel():
    return rnnfast.last_kernel()


def build(row, arrays, weights):
    spec = rnnfast.CELLS[row["cell"]]
    options = {"recurrent_dropout": DROPOUT} if row["option"] == "recurrent_dropout" else {}
    sizes = row["I"], row["H"], row["L"]
    given = dict(spec.options, dtype=row["dtype"], device="cpu", **options)
    layer = KINDS[spec.function](*sizes, **given)
    layer.load_state_dict(weights)
    x, dy = arrays["x"], arrays["dy"]
    states = tuple(arrays[s + "0"] for s in spec.states)
    state = states if spec.S > 1 else states[0]
    steps = {name: arrays[name] for name in ("reset", "lengths") if name in arrays}
    if row["passed"] == "forward+backward":
        return {"": training(row, spec, layer, x, state, dy, steps, arrays.get("dc"))}

    def results(found):
        y, state_n = found[:2]
        states_n = state_n if spec.S > 1 else (state_n,)
        named = {s + "_n": array for s, array in zip(spec.states, states_n, strict=True)}
        if row["option"] == "states":
            named["c"] = found[2].c
        return {"y": y, **named}

    if row["option"] == "states":  # a prepared layer keeps nothing of a call
        return {"plain": (partial(layer, x, state, return_states=True), results)}
    ways = {
        "": (partial(layer.prepare(), x, state, **steps), results),
        "plain": (partial(layer, x, state, **steps), results),
    }
    if row["T"] == 1 and not steps:
        stream = rnnfast.Stream(layer, row["B"], state=state, threads=None)
        out = np.empty((row["B"], row["H"]), row["dtype"])

        # Goes on from the state that it left, as a stream does.
        def results_of_step(y):
            return results((y[None], stream.state))

        ways["stream"] = (partial(stream.step, x[0], out), results_of_step)
    return ways


def training(row, spec, layer, x, state, dy, steps, dc):
    masks = {}
    if row["option"] == "recurrent_dropout":
        masks = {"training": True, "seed": SEED}
    back = {}
    if dc is not None:
        back["dstates"] = rnnfast.States(None, dc, None)

    def call():
        y, state_n, tape = layer.forward(x, state, **steps, **masks)
        states = tape.states() if dc is not None else None
        return y, state_n, states, layer.backward(tape, dy, **back)

    def results(found):
        y, state_n, states, gradients = found
        named = {"y": y, "dx": gradients.x}
        pairs = ((state_n, "{}_n"), (gradients.state, "d{}0"))
        for values, name in pairs:
            values = values if spec.S > 1 else (values,)
            for letter, array in zip(spec.states, values, strict=True):
                named[name.format(letter)] = array
        if states is not None:
            named["c"] = states.c
        named.update(("d:" + name, array) for name, array in gradients.parameters.items())
        return named

    return call, results
