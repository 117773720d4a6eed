"""Say of every frame of a short moving picture which way the dot goes.

A frame alone does not tell: it takes the one before. Pictures are 3 to 12 frames long.
"""

import numpy as np

from rnnfast.models import SequenceTagger

rng = np.random.default_rng(0)
MOVES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), "still": (0, 0)}
SIZE = 6


def picture():
    """(T, SIZE * SIZE) pixels with some noise, and how the dot came into each frame."""
    place, frames, labels = rng.integers(SIZE, size=2), [], []
    for t in range(rng.integers(3, 13)):
        name = str(rng.choice(list(MOVES))) if t else "still"
        place = (place + MOVES[name]) % SIZE  # round the edge
        frame = rng.normal(0, 0.1, (SIZE, SIZE))
        frame[tuple(place)] += 1
        frames.append(frame.ravel())
        labels.append(name)
    return np.array(frames), labels


X, y = zip(*(picture() for _ in range(1500)), strict=True)
model = SequenceTagger(bidirectional=False, max_epochs=25, learning_rate=0.01, random_state=0)
model.fit(X[:1200], y[:1200])
frames, labels = X[1200], y[1200]
print("the dot went:", *labels)
print("the model says:", *model.predict([frames])[0])
score = model.score(X[1200:], y[1200:])
print(f"frames of new pictures labelled right: {score:.3f}")
assert score > 0.95
