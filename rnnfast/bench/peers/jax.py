"""JAX: compiled `lax.scan`, the input's product taken out of the loop, kernels as Flax keeps them.

The way "unroll" has 8 steps in each turn of the loop, which is faster for some small layers. A call
ends when its results are there.
"""

import functools

import jax
import jaxlib
import numpy as np
from jax import lax
from jax import numpy as jnp

UNROLL = 8


def start(threads):
    jax.config.update("jax_enable_x64", True)  # or float64 would be float32
    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__}  # threads: the cores it may use


def lacks(row):
    return "options are compared with PyTorch alone" if row["option"] else None


def build(row, arrays, weights):
    ways = {"": one_way(row, arrays, weights, 1)}
    if row["T"] >= UNROLL:
        ways["unroll"] = one_way(row, arrays, weights, UNROLL)
    return ways


def one_way(row, arrays, weights, unroll):
    L = row["L"]
    layers = [
        (
            jnp.asarray(np.ascontiguousarray(weights[f"weight_ih_l{k}"].T)),
            jnp.asarray(np.ascontiguousarray(weights[f"weight_hh_l{k}"].T)),
            jnp.asarray(weights[f"bias_ih_l{k}"]),
            jnp.asarray(weights[f"bias_hh_l{k}"]),
        )
        for k in range(L)
    ]
    letters = [s for s in "hc" if s + "0" in arrays]
    states = [tuple(jnp.asarray(arrays[s + "0"][k]) for s in letters) for k in range(L)]
    x, dy = jnp.asarray(arrays["x"]), jnp.asarray(arrays["dy"])
    run = functools.partial(forward, row["cell"], unroll)

    def finals(last):
        return {
            s + "_n": np.stack([np.asarray(states[j]) for states in last])
            for j, s in enumerate(letters)
        }

    if row["passed"] == "inference":
        compiled = jax.jit(run)

        def call():
            return jax.block_until_ready(compiled(layers, x, states))

        def results(found):
            return {"y": np.asarray(found[0]), **finals(found[1])}

        return call, results

    @jax.jit
    def both(layers, x, states, dy):
        y, back, last = jax.vjp(run, layers, x, states, has_aux=True)
        return y, last, back(dy)

    def call_both():
        return jax.block_until_ready(both(layers, x, states, dy))

    def results_of_both(found):
        y, last, (dlayers, dx, dstates) = found
        named = {"y": np.asarray(y), **finals(last), "dx": np.asarray(dx)}
        for j, s in enumerate(letters):
            named[f"d{s}0"] = np.stack([np.asarray(dstates[k][j]) for k in range(L)])
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        for k, gradients in enumerate(dlayers):
            for kind, gradient in zip(kinds, gradients):
                named[f"d:{kind}_l{k}"] = np.asarray(gradient).T
        return named

    return call_both, results_of_both


def forward(cell, unroll, layers, x, states):
    """Run all layers; returns y and their final states."""
    lasts = []
    for (W, R, bW, bR), initial in zip(layers, states):
        one = functools.partial(step, cell, R, bR)
        last, x = lax.scan(one, initial, x @ W + bW, unroll=unroll)
        lasts.append(last)
    return x, lasts


def step(cell, R, bR, states, gx):
    gh = states[0] @ R + bR
    if cell == "lstm":
        i, f, g, o = jnp.split(gx + gh, 4, axis=-1)
        c = jax.nn.sigmoid(f) * states[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h
    if cell == "gru":
        (xr, xz, xn), (hr, hz, hn) = (jnp.split(g, 3, axis=-1) for g in (gx, gh))
        r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
        n = jnp.tanh(xn + r * hn)
        h = n + z * (states[0] - n)
        return (h,), h
    h = jnp.tanh(gx + gh) if cell == "rnn_tanh" else jax.nn.relu(gx + gh)
    return (h,), h
