"""Tell whether a review is favourable, where the order of its words decides.

"The plot was not bad" praises, and what comes after "but" weighs more than what comes before: a bag
of words cannot tell who was praised. The recurrent classifier is compared with one on such a bag.
"""

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from rnnfast.models import SequenceClassifier

rng = np.random.default_rng(0)
GOOD = ["good", "great", "fine", "moving", "clever", "lovely", "bright", "warm"]
BAD = ["bad", "poor", "dull", "flat", "silly", "dreadful", "dim", "cold"]
THINGS = ["film", "plot", "cast", "music", "ending", "story", "picture", "script"]


def opinion(favourable):
    """An adjective, or the opposite one negated."""
    if rng.random() < 0.5:
        return str(rng.choice(GOOD if favourable else BAD))
    return f"not {rng.choice(BAD if favourable else GOOD)}"


def review():
    favourable = bool(rng.random() < 0.5)
    text = f"The {rng.choice(THINGS)} was {opinion(favourable)}"
    if rng.random() < 0.5:  # what comes after "but" weighs more
        text = f"The {rng.choice(THINGS)} was {opinion(not favourable)}, but " + text.lower()
    return f"{text}.", favourable


texts, labels = zip(*(review() for _ in range(1500)), strict=True)
train, test = slice(0, 1000), slice(1000, None)
model = SequenceClassifier(
    input="tokens", embedding_size=16, hidden_size=32, max_epochs=15, random_state=0
).fit(texts[train], labels[train])
bag = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
bag.fit(texts[train], labels[train])

for text in ("The plot was not bad.", "The plot was bad, but the cast was not bad."):
    print(f"{model.predict_proba([text])[0, 1]:.2f} favourable: {text}")
score, of_bag = model.score(texts[test], labels[test]), bag.score(texts[test], labels[test])
print(f"new reviews told right: {score:.3f}, by a bag of words {of_bag:.3f}")
assert score > 0.98
assert score > of_bag + 0.1
