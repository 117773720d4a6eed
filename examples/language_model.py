"""Learn English letter by letter from the documentation that every Python carries.

A language model gives every sentence a probability, one letter at a time. What it has learned is
measured on sentences that it has not seen, in bits per letter, against a table of which letter
follows which two.
"""

import math
import re
from collections import Counter
from itertools import pairwise
from pydoc_data.topics import topics

import numpy as np

from rnnfast.models import SequenceGenerator

text = re.sub(r"\s+", " ", "".join(topics[name] for name in sorted(topics)))
sentences = re.findall(r"[A-Z][^.A-Z]{20,100}[a-z]\.", text)
sentences = list(dict.fromkeys(sentences))  # each once
np.random.default_rng(0).shuffle(sentences)
STARTS = ["The ", "If ", "An object "]
train, test = sentences[:-200], sentences[-200:]
letters = sum(len(sentence) + 1 for sentence in test)  # the end counts as one


def bits_of_trigrams():
    """Bits per letter of P(c | a b), each count a tenth up, so that nothing is impossible."""
    triples, pairs, alphabet = Counter(), Counter(), {"$"}
    for sentence in train:
        padded = f"^^{sentence}$"
        alphabet.update(sentence)
        triples.update(zip(padded, padded[1:], padded[2:], strict=False))
        pairs.update(pairwise(padded))
    bits = 0.0
    for sentence in test:
        padded = f"^^{sentence}$"
        for a, b, c in zip(padded, padded[1:], padded[2:], strict=False):
            bits -= math.log2((triples[a, b, c] + 0.1) / (pairs[a, b] + 0.1 * len(alphabet)))
    return bits / letters


model = SequenceGenerator(
    input="tokens",
    tokenizer="characters",
    cell="lstm",
    hidden_size=128,
    learning_rate=0.01,
    max_epochs=14,
    strategy="sample",
    temperature=0.5,
    random_state=0,
)
model.fit([""] * len(train), train)
bits, of_trigrams = -model.score([""] * len(test), test) / math.log(2), bits_of_trigrams()
print(f"learned from {len(train)} sentences; {bits:.2f} bits per letter on {len(test)} new ones,")
print(f"where knowing the last two letters gives {of_trigrams:.2f}. It goes on:")
for beginning, rest in zip(STARTS, model.predict(STARTS), strict=True):
    print(f"  {beginning}|{rest}")
assert bits < of_trigrams - 0.3
