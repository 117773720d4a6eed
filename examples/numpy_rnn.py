"""The RNN class that tutorials write in NumPy, and the same numbers from the kernels, faster.

Many to one: the words of a sentence go in, "good or bad?" comes out after the last one. Weights
Wxh, Whh, Why and biases bh, by; gradients are clipped to -1 ... 1, element by element.
"""

import time

import numpy as np

import rnnfast
from rnnfast.reference.yardstick import excess
from rnnfast.training import softmax_cross_entropy


class NumpyRNN:
    """One sequence at a time, one step at a time."""

    def __init__(self, vocabulary, classes, hidden=64, dtype=np.float32):
        rng = np.random.default_rng(0)
        self.Wxh = (0.1 * rng.standard_normal((hidden, vocabulary))).astype(dtype)
        self.Whh = (0.1 * rng.standard_normal((hidden, hidden))).astype(dtype)
        self.Why = (0.1 * rng.standard_normal((classes, hidden))).astype(dtype)
        self.bh, self.by = np.zeros(hidden, dtype), np.zeros(classes, dtype)
        self.one_hot = np.eye(vocabulary, dtype=dtype)

    def forward(self, words):
        self.xs, self.hs = self.one_hot[words], [np.zeros_like(self.bh)]
        for x in self.xs:
            self.hs.append(np.tanh(self.Wxh @ x + self.Whh @ self.hs[-1] + self.bh))
        return self.Why @ self.hs[-1] + self.by

    def backward(self, dy):
        d = {name: np.zeros_like(getattr(self, name)) for name in ("Wxh", "Whh", "bh")}
        dh = self.Why.T @ dy
        for t in reversed(range(len(self.xs))):
            da = (1 - self.hs[t + 1] ** 2) * dh
            d["Wxh"] += np.outer(da, self.xs[t])
            d["Whh"] += np.outer(da, self.hs[t])
            d["bh"] += da
            dh = self.Whh.T @ da
        return d | {"Why": np.outer(dy, self.hs[-1]), "by": dy}

    def learn(self, words, label, rate):
        _, dy = softmax_cross_entropy(self.forward(words), label)
        for name, gradient in self.backward(dy).items():
            getattr(self, name)[...] -= rate * np.clip(gradient, -1, 1)


class FastRNN(NumpyRNN):
    """The same class on the kernels: all steps in one call."""

    def forward(self, words):
        xs = self.one_hot[words][:, None]
        _, h_n, self.tape = rnnfast.rnn_forward(xs, self.Wxh, self.Whh, self.bh)
        self.last = h_n[0]
        return self.Why @ self.last + self.by

    def backward(self, dy):
        d = rnnfast.rnn_backward(self.tape, dh_n=(self.Why.T @ dy)[None])
        return {"Wxh": d.dW, "Whh": d.dR, "bh": d.dbW, "Why": np.outer(dy, self.last), "by": dy}


# Sentences whose sense is in a word or two: "not" turns it round, "very" does nothing.
starts, turns, ends = ("this is", "that was", "i am"), ("", "not", "very", "not very"), ("", "now")
senses = {"good": 1, "happy": 1, "lovely": 1, "bad": 0, "sad": 0, "awful": 0}
sentences = [
    (" ".join((start, turn, word, end)).split(), sense ^ ("not" in turn))
    for start in starts
    for turn in turns
    for word, sense in senses.items()
    for end in ends
]
vocabulary = {word: i for i, word in enumerate(sorted({w for s, _ in sentences for w in s}))}
data = [(np.array([vocabulary[w] for w in s]), np.array(label)) for s, label in sentences]
order = np.random.default_rng(1).permutation(len(data))
train, test = [data[i] for i in order[:100]], [data[i] for i in order[100:]]

# 1. The same numbers: each array may be off by what the yardstick grants NumPy's own float32.
ours, plain = FastRNN(len(vocabulary), 2), NumpyRNN(len(vocabulary), 2)
exact = NumpyRNN(len(vocabulary), 2, dtype=np.float64)
for name in ("Wxh", "Whh", "Why"):
    getattr(exact, name)[...] = getattr(plain, name)


def results(model):
    """The outputs and gradients of all sentences by name, each as one row."""
    rows = {}
    for words, label in train:
        y = model.forward(words)
        _, dy = softmax_cross_entropy(y, label)
        for name, array in {"y": y, **model.backward(dy)}.items():
            rows.setdefault(name, []).append(array.ravel())
    return {name: np.concatenate(arrays)[None] for name, arrays in rows.items()}


kernel, numpy32, numpy64 = results(ours), results(plain), results(exact)
for name in kernel:
    off = excess(kernel[name], numpy32[name], numpy64[name], terms=len(vocabulary) + 64)
    print(f"{name:3} is off by {off:.2f} of what the yardstick allows")
    assert off <= 1

# 2. They learn the same.
for who, model in (("kernels", ours), ("NumPy", plain)):
    for _ in range(200):
        for words, label in train:
            model.learn(words, label, rate=0.1)
    right = np.mean([model.forward(words).argmax() == label for words, label in test])
    print(f"{who}: {right:.0%} of {len(test)} new sentences right")
    assert right == 1


# 3. How many times faster: forward and backward of all sentences, in turns, medians of the ratios.
def one_by_one(model):
    return [(model.forward(words), model.backward(dy))[0] for words, _ in train]


def one_batch(model):
    """What the class cannot do: all sentences in one call, each of its own length."""
    _, h_n, tape = rnnfast.rnn_forward(batch, model.Wxh, model.Whh, model.bh, lengths=lengths)
    rnnfast.rnn_backward(tape, dh_n=np.broadcast_to(dy @ model.Why, h_n.shape))
    return h_n @ model.Why.T + model.by


def seconds(function, model):
    began = time.perf_counter()
    function(model)
    return time.perf_counter() - began


dy, lengths = np.ones(2, np.float32), np.array([len(words) for words, _ in train])
batch = np.zeros((lengths.max(), len(train)), int)
for b, (words, _) in enumerate(train):
    batch[: len(words), b] = words
assert np.array_equal(one_batch(ours).argmax(1), np.argmax(one_by_one(ours), 1))
for function in (one_by_one, one_batch):
    turns = [(seconds(one_by_one, plain), seconds(function, ours)) for _ in range(20)]
    faster = np.median([theirs / mine for theirs, mine in turns])
    print(f"{function.__name__}: {faster:.1f} times faster than the class")
