"""Translate dates as people write them into ISO 8601: "3 March 2001" to "2001-03-03".

The two are of unequal length and in another order: an encoder reads the whole date, letter by
letter and in both directions, and a decoder writes what it has understood. Dates are asked for that
were not among those learned.
"""

import datetime

import numpy as np

from rnnfast.models import Seq2Seq

rng = np.random.default_rng(0)
FORMATS = ["{d.day} %B %Y", "%B {d.day}, %Y", "%d.%m.%Y", "%A, {d.day} %b %Y", "%b {d.day} %Y"]
days = rng.permutation(50 * 365) + datetime.date(1980, 1, 1).toordinal()


def written(day):
    date = datetime.date.fromordinal(int(day))
    return date.strftime(str(rng.choice(FORMATS)).format(d=date)), date.isoformat()


X, y = zip(*(written(day) for day in days[:5000]), strict=True)
unseen, right = zip(*(written(day) for day in days[-300:]), strict=True)
model = Seq2Seq(
    input="tokens",
    tokenizer="characters",
    hidden_size=96,
    max_epochs=7,
    random_state=0,
)
model.fit(X, y)
for date, iso in zip(unseen[:5], model.predict(unseen[:5]), strict=True):
    print(f"{date:>26} -> {iso}")
score = model.score(unseen, right)
print(f"new dates translated without a mistake: {score:.3f}")
assert score > 0.97
