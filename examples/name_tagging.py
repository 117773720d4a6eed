"""Find the names in sentences, over a vocabulary of 10,000 words and <UNK>.

"Teddy" is a name before "Roosevelt" and none before "bears". When a network that reads from left
to right has come to "Teddy" it has seen the same words in both, so it says the same, to the bit,
and is wrong in one of them. One that reads in both directions knows what follows.
"""

import numpy as np

from rnnfast.models import SequenceTagger

rng = np.random.default_rng(0)
# Given names that are ordinary words too.
GIVEN = ["Teddy", "Rose", "Frank", "Grace", "Mark", "Bill", "Pat", "Joy", "Art", "Dean"]
THINGS = ["bears", "shops", "songs", "markets", "boxes", "letters", "rooms", "plans", "books"]
BEFORE = ["He said", "She said", "They heard that", "We know that", "It was clear that"]
SYLLABLES = [c + v for c in "bdfgklmnprstvw" for v in "aeiou"]
SURNAMES = ["Roosevelt"]
while len(SURNAMES) < 12_000:
    name = "".join(rng.choice(SYLLABLES, 3)).capitalize() + rng.choice(["n", "s", "r", "x"])
    SURNAMES.append(str(name))
SURNAMES = list(dict.fromkeys(SURNAMES))


def sentence(given, follows, is_name):
    words = [
        *rng.choice(BEFORE).split(),
        given,
        follows,
        *rng.choice(["were here", "came"]).split(),
    ]
    names = [word == given or (is_name and word == follows) for word in words]
    return words, [is_name and name for name in names]


def sentences(n, surnames):
    drawn = []
    for _ in range(n):
        is_name = bool(rng.random() < 0.5)
        follows = rng.choice(surnames if is_name else THINGS)
        drawn.append(sentence(rng.choice(GIVEN), follows, is_name))
    return [words for words, _ in drawn], [names for _, names in drawn]


known = [*GIVEN, *THINGS, *dict.fromkeys(" ".join(BEFORE).split()), "were", "here", "came"]
vocabulary = [*known, *SURNAMES][:10_000]  # the last surnames are left out: they are <UNK>
X, y = sentences(1000, SURNAMES)
new, new_names = sentences(500, SURNAMES)
unknown = sum(word not in vocabulary for words in new for word in words)
print(f"{len(vocabulary):,} words; {unknown} words of the new sentences are <UNK>")

pair = [[*["He", "said", "Teddy"], last, "came"] for last in ("Roosevelt", "bears")]
right = np.array([[False, False, True, True, False], [False] * 5])
for bidirectional in (False, True):
    model = SequenceTagger(
        input="tokens",
        vocabulary=vocabulary,
        bidirectional=bidirectional,
        hidden_size=32,
        max_epochs=8,
        random_state=0,
    ).fit(X, y)
    tags, shares = np.stack(model.predict(pair)), np.stack(model.predict_proba(pair))
    print(f"\nbidirectional={bidirectional}: {model.score(new, new_names):.3f} of new words right")
    for words, row in zip(pair, tags, strict=True):
        print("  " + " ".join(f"[{w}]" if name else w for w, name in zip(words, row, strict=True)))
    if bidirectional:
        assert (tags == right).all()
        assert model.score(new, new_names) > 0.99
    else:
        assert np.array_equal(shares[0, :3], shares[1, :3])  # to the bit
        assert (tags[:, 2] == right[:, 2]).sum() == 1
