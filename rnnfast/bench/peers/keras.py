"""Keras on TensorFlow: its layers inside a `tf.function`, batch first as they are."""

import keras
import numpy as np
import tensorflow as tf

LAYERS = {
    "rnn_tanh": (keras.layers.SimpleRNN, {"activation": "tanh"}),
    "rnn_relu": (keras.layers.SimpleRNN, {"activation": "relu"}),
    "lstm": (keras.layers.LSTM, {}),
    "gru": (keras.layers.GRU, {"reset_after": True}),
}


def start(threads):
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(f"Keras runs on {keras.backend.backend()}, expected tensorflow")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return {"keras": keras.__version__, "tensorflow": tf.__version__}


def lacks(row):
    return "options are compared with PyTorch alone" if row["option"] else None


def build(row, arrays, weights):
    kind, options = LAYERS[row["cell"]]
    letters = [s for s in "hc" if s + "0" in arrays]
    layers = []
    for k in range(row["L"]):
        layer = kind(
            row["H"], return_sequences=True, return_state=True, dtype=row["dtype"], **options
        )
        layer.build((row["B"], row["T"], row["I"] if k == 0 else row["H"]))
        layer.set_weights([weights[f"{k}/{j}"] for j in range(3)])
        layers.append(layer)
    x = tf.constant(arrays["x"].transpose(1, 0, 2))
    states = [[tf.constant(arrays[s + "0"][k]) for s in letters] for k in range(row["L"])]
    dy = tf.constant(arrays["dy"].transpose(1, 0, 2))

    def run(x, states):
        lasts = []
        for layer, initial in zip(layers, states):
            x, *last = layer(x, initial_state=initial)
            lasts.append(last)
        return x, lasts

    def named(y, lasts):
        finals = {
            s + "_n": np.stack([last[j].numpy() for last in lasts]) for j, s in enumerate(letters)
        }
        return {"y": y.numpy().transpose(1, 0, 2), **finals}

    if row["passed"] == "inference":
        compiled = tf.function(run)
        return {"": (lambda: compiled(x, states), lambda found: named(*found))}

    variables = [layer.trainable_weights for layer in layers]

    @tf.function
    def both(x, states, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, states])
            y, lasts = run(x, states)
        sources = [x, states, [[v.value for v in group] for group in variables]]
        return y, lasts, tape.gradient(y, sources, output_gradients=dy)

    def results(found):
        y, lasts, (dx, dstates, dvariables) = found
        gradients = {"dx": dx.numpy().transpose(1, 0, 2)}
        for j, s in enumerate(letters):
            gradients[f"d{s}0"] = np.stack([d[j].numpy() for d in dstates])
        for k, group in enumerate(dvariables):
            for j, gradient in enumerate(group):
                gradients[f"d:{k}/{j}"] = gradient.numpy()
        return {**named(y, lasts), **gradients}

    return {"": (lambda: both(x, states, dy), results)}
