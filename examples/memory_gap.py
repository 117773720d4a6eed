"""Vanishing and exploding gradients: what a recurrent layer can recall over a gap, and why.

python examples/memory_gap.py [FOLDER]    draws the pictures of docs/inspect.md into the folder
"""

import sys
from pathlib import Path

import numpy as np

import rnnfast
from rnnfast import inspect
from rnnfast.initializers import chrono, orthogonal_recurrent
from rnnfast.training import (
    SGD,
    Adam,
    Linear,
    clip_by_global_norm,
    softmax_cross_entropy,
    squared_error,
)

# 1. One factor per step. About the state 0 a tanh RNN is linear, and the gradient that goes back
#    k steps is multiplied k times by the recurrent weights: here an orthogonal matrix, scaled.
STEPS = 100
norms = {}
for factor in (0.9, 1.0, 1.1):
    rnn = rnnfast.RNN(1, 32, bias=False, dtype="float64", seed=0)
    orthogonal_recurrent(rnn, seed=0, gain=factor)
    x, dy = np.zeros((STEPS, 1, 1)), np.zeros((STEPS, 1, 32))
    dy[-1] = 1 / np.sqrt(32)  # a loss on the last step alone, its gradient of norm 1
    norms[factor] = inspect.gradient_flow(rnn, x, dy=dy).norms[0]
    print(f"factor {factor}: norm 1 at the last step, {norms[factor][0]:.1e} at the first")
    assert np.allclose(norms[factor], factor ** np.arange(STEPS)[::-1], rtol=1e-9)

# 2. Recall: the first token is one of 8 symbols, then comes a gap of noise, then a question mark.
SYMBOLS, HIDDEN, QUESTION = 8, 32, 16
GAPS, KINDS = (5, 20, 60), ("RNN", "LSTM", "LSTM, open", "GRU, open")


def recall_batch(rng, gap, rows):
    tokens = rng.integers(SYMBOLS, QUESTION, (gap + 2, rows))
    tokens[0], tokens[-1] = rng.integers(0, SYMBOLS, rows), QUESTION
    return tokens


def make(kind, gap, seed):
    """A layer; an open one keeps its state for up to the gap from the start."""
    layer = getattr(rnnfast, kind.split(",")[0])(QUESTION + 1, HIDDEN, seed=seed)
    if kind.endswith("open"):
        chrono(layer, gap, seed=seed)
    return layer


def as_state(layer, dh):
    return (dh, None) if layer.cell == "lstm" else dh


def recall(layer, gap, seed, steps=400):
    """Train, and return the share of symbols recalled."""
    rng, linear = np.random.default_rng(seed), Linear(HIDDEN, SYMBOLS, seed=seed)
    adam = Adam({**layer.parameters, **linear.parameters}, lr=1e-2)
    for _ in range(steps):
        tokens = recall_batch(rng, gap, 32)
        y, _, tape = layer.forward(tokens)
        logits, linear_tape = linear.forward(y[-1])
        _, dlogits = softmax_cross_entropy(logits, tokens[0])
        above = linear.backward(linear_tape, dlogits)
        below = layer.backward(tape, dstate=as_state(layer, above.x[None]), need_dx=False)
        gradients = {**below.parameters, **above.parameters}
        clip_by_global_norm(gradients, 1.0)
        adam.step(gradients)
    tokens = recall_batch(rng, gap, 500)
    return np.mean(linear(layer(tokens)[0][-1]).argmax(1) == tokens[0])


print("\nshare recalled after training, mean of 3 seeds (a guess is right in 1 of 8), and the")
print("norm of the gradient that reaches the first step before training, 1 at the last")
shares, flows, trained = {}, {}, {}
for kind in KINDS:
    for gap in GAPS:
        layer = make(kind, gap, seed=0)
        dh = np.full((1, 1, HIDDEN), HIDDEN**-0.5, np.float32)
        tokens = recall_batch(np.random.default_rng(0), gap, 1)
        flow = inspect.gradient_flow(layer, tokens, dstate=as_state(layer, dh))
        flows[kind, gap] = flow.norms[0]
        layers = [make(kind, gap, seed) for seed in range(3)]
        shares[kind, gap] = np.mean([recall(layer, gap, s) for s, layer in enumerate(layers)])
        trained[kind, gap] = layers[0]
    row = "   ".join(f"gap {g}: {shares[kind, g]:4.0%} ({flows[kind, g][0]:.0e})" for g in GAPS)
    print(f"  {kind:10} {row}")
# What vanishes is the gradient. Gates help where they start open; the LSTM as drawn is shut.
assert all(shares[kind, 5] > 0.95 for kind in ("RNN", "LSTM, open", "GRU, open"))
assert min(shares["LSTM, open", 60], shares["GRU, open", 60]) > 0.9
assert max(shares["RNN", 60], shares["LSTM", 60]) < 0.8
assert flows["RNN", 60][0] < 1e-9 < 1e-3 < min(flows[f"{k}, open", 60][0] for k in ("LSTM", "GRU"))

# 3. Clipping: relu and a factor of 1.1 over 50 steps. One gradient that has exploded throws the
#    weights where nothing is learned any more, or to infinity; scaled down to norm 1 it is a step.
print("\nmean squared error of a relu RNN, factor 1.1, by SGD (1 for always 0)")
for seed in range(3):
    ends = {}
    for limit in (np.inf, 1.0):
        rnn = rnnfast.RNN(1, HIDDEN, nonlinearity="relu", seed=seed)
        orthogonal_recurrent(rnn, seed=seed, gain=1.1)
        linear, rng = Linear(HIDDEN, 1, seed=seed), np.random.default_rng(seed)
        sgd = SGD({**rnn.parameters, **linear.parameters}, lr=0.03)
        losses = []
        for _ in range(300):
            x = rng.standard_normal((50, 32, 1)).astype(np.float32)
            y, _, tape = rnn.forward(x)
            out, linear_tape = linear.forward(y[-1])
            loss, dout = squared_error(out, x.sum(0) / np.float32(50**0.5))
            above = linear.backward(linear_tape, dout)
            below = rnn.backward(tape, dstate=above.x[None], need_dx=False)
            gradients = {**below.parameters, **above.parameters}
            losses.append(loss)
            if not np.isfinite(clip_by_global_norm(gradients, limit)):
                losses.append(np.nan)  # no step leads back from here
                break
            sgd.step(gradients)
        ends[limit] = np.mean(losses[-20:])
    print(f"  seed {seed}: {ends[np.inf]:.2f} without clipping, {ends[1.0]:.2f} with it at norm 1")
    assert ends[1.0] < 0.7
    assert not ends[np.inf] < 0.7  # NaN is no success either

if len(sys.argv) > 1:
    from matplotlib import pyplot

    def draw(name, ax, **labels):
        ax.set(**labels)
        if ax.lines:
            ax.legend(frameon=False)
        # Without the version of matplotlib, which would change the file for no picture's sake.
        path = Path(sys.argv[1]) / f"{name}.png"
        ax.figure.savefig(path, dpi=80, metadata={"Software": None})
        print(path)

    size = {"figsize": (6.4, 3.2), "layout": "constrained"}
    for name, lines in (
        ("factors", {f"factor {factor}": line for factor, line in norms.items()}),
        ("cells", {kind: flows[kind, 60] for kind in KINDS}),
    ):
        _, ax = pyplot.subplots(**size)
        for label, line in lines.items():
            ax.semilogy(line, label=label)
        draw(name, ax, xlabel="step t; the loss is at the last", ylabel="gradient reaching t")
    tokens = recall_batch(np.random.default_rng(0), 20, 1)
    text = ["abcdefgh........?"[token] for token in tokens[:, 0]]
    for kind, letter in (("LSTM, open", "f"), ("LSTM, open", "c")):
        _, ax = pyplot.subplots(**size)
        record = inspect.activations(trained[kind, 20], tokens)
        draw(f"lstm-{letter}", record.plot(letter, labels=text, ax=ax))
