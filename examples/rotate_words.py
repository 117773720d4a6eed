"""Learn three words' rotations letter by letter: 'hello' to 'elloh'.

One pair has unequal lengths, as it is published: 'tensorflow' to 'ensorflo'. A plain RNN reads from
left to right, so what it says of the first eight letters does not depend on the last two: the word
is read as far as there is a target.
"""

from rnnfast.models import SequenceTagger

PAIRS = {"hello": "elloh", "world": "orldw", "tensorflow": "ensorflo"}
X = [word[: len(rotated)] for word, rotated in PAIRS.items()]
y = [list(rotated) for rotated in PAIRS.values()]


def learn(seed):
    model = SequenceTagger(
        cell="rnn_tanh",
        bidirectional=False,
        hidden_size=32,
        input="tokens",
        tokenizer="characters",
        embedding_size=16,
        learning_rate=0.1,
        max_epochs=100,
        random_state=seed,
    )
    return model.fit(X, y)


models = [learn(seed) for seed in range(20)]
for word, said in zip(PAIRS, models[0].predict(X), strict=True):
    print(f"{word:10} -> {''.join(said)}")
perfect = [model.score(X, y) == 1 for model in models]
print(f"{sum(perfect)} of {len(models)} seeds reach 100 % on the training words")
assert perfect[0]
