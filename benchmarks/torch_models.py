"""Models and data of `torch_module.py`: what users of recurrent layers train, in small."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

WORDS, BATCH, LONGEST = 2000, 32, 40
# The text is our own, pages of one length or so; a sentence's class is its page.
_PAGES = ("README.md", "docs/architecture.md", "docs/benchmarks.md", "docs/cuda.md")
_CLASSES = len(_PAGES)
_FRESH = 1_000_000


class Tagger(nn.Module):
    """A tag for each word of a sentence: embedding, bidirectional LSTM on packed rows, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 64)
        self.lstm = nn.LSTM(64, 128, bidirectional=True, batch_first=True)
        self.out = nn.Linear(256, 2 * _CLASSES)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (B, T, tags)."""
        packed = pack_padded_sequence(
            self.embed(words), lengths, batch_first=True, enforce_sorted=False
        )
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=LONGEST)
        return self.out(y)


class Classifier(nn.Module):
    """A class for each sentence: embedding, GRU of two layers, linear on the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 64)
        self.gru = nn.GRU(64, 128, num_layers=2, batch_first=True, dropout=0.2)
        self.out = nn.Linear(128, _CLASSES)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        packed = pack_padded_sequence(
            self.embed(words), lengths, batch_first=True, enforce_sorted=False
        )
        return self.out(self.gru(packed)[1][-1])


@functools.cache
def _pages() -> list[tuple[Tensor, Tensor]]:
    """Words and tags of each page, the rarest words as one.

    A tag says how a word is written, and whether it stands inside of backticks: so it takes memory.
    """
    root = Path(__file__).parents[1]
    texts = [re.sub("```.*?```", "", (root / page).read_text(), flags=re.S) for page in _PAGES]
    pages = [re.findall(r"\w+|`", text) for text in texts]
    common = Counter(word for page in pages for word in page).most_common(WORDS - 1)
    number = {word: k + 1 for k, (word, _) in enumerate(common)}
    made = []
    for page in pages:
        words = torch.tensor([number.get(word, 0) for word in page])
        kinds = [0 if w.isdigit() else 1 if w.islower() else 2 if w.istitle() else 3 for w in page]
        inside = torch.tensor([word == "`" for word in page]).cumsum(0) % 2
        made.append((words, torch.tensor(kinds) + _CLASSES * inside))
    return made


def sentences(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Words (B, T), lengths (B,), tags (B, T) with -100 beyond the end, classes (B,)."""
    generator = torch.Generator().manual_seed(step)
    classes = torch.randint(_CLASSES, (BATCH,), generator=generator)
    lengths = torch.randint(5, LONGEST + 1, (BATCH,), generator=generator)
    words, tags = [], []
    for page in classes.tolist():
        of_page, tags_of_page = _pages()[page]
        start = int(torch.randint(len(of_page) - LONGEST, (), generator=generator))
        words.append(of_page[start : start + LONGEST])
        tags.append(tags_of_page[start : start + LONGEST])
    expected = torch.stack(tags)
    expected[torch.arange(LONGEST) >= lengths[:, None]] = -100
    return torch.stack(words), lengths, expected, classes


class Trainer:
    """One training run; each call is a step on the next batch."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.losses = model, list[float]()
        self.adam = torch.optim.Adam(model.parameters(), lr=4e-3)

    def __call__(self) -> None:
        """Train on one batch."""
        step = len(self.losses)
        torch.manual_seed(step)  # the same dropout in every run
        loss = cross_entropy(*self._answers(step))
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.losses.append(loss.item())

    def accuracy(self, batches: int = 8) -> float:
        """Share of right answers on sentences that were not drawn in training, without dropout."""
        self.model.eval()
        right = []
        with torch.inference_mode():
            for k in range(batches):
                logits, expected = self._answers(_FRESH + k)
                right.append((logits.argmax(-1) == expected)[expected >= 0])
        self.model.train()
        return float(torch.cat(right).float().mean())

    def _answers(self, step: int) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) and what is expected (N,) of the batch of a step."""
        words, lengths, tags, classes = sentences(step)
        logits = self.model(words, lengths)
        expected = tags if isinstance(self.model, Tagger) else classes
        return logits.flatten(0, -2), expected.flatten()


class Agent(nn.Module):
    """A recurrent policy with a value, as reinforcement learning trains it."""

    def __init__(self, kind: type[nn.RNNBase], inputs: int, hidden: int, actions: int = 6) -> None:
        super().__init__()
        self.core = kind(inputs, hidden)
        self.policy, self.value = nn.Linear(hidden, actions), nn.Linear(hidden, 1)

    def step_by_step(self, x: Tensor, begins: Tensor, state: Tensor) -> Tensor:
        """Run as reinforcement learning libraries do, which must look at every border of steps."""
        ys = []
        for x_t, keep in zip(x, 1 - begins.to(x.dtype), strict=True):
            state = tuple(keep[:, None] * s for s in state)
            y, state = self.core(x_t[None], state if len(state) > 1 else state[0])
            state = state if isinstance(state, tuple) else (state,)
            ys.append(y)
        return torch.cat(ys)

    def at_once(self, x: Tensor, begins: Tensor, state: Tensor) -> Tensor:
        """Run the whole sequence in one call."""
        return self.core(x, state if len(state) > 1 else state[0], reset=begins)[0]


def clipped_loss(agent: Agent, y: Tensor, actions: Tensor, old: Tensor, gain: Tensor) -> Tensor:
    """Proximal policy optimisation's loss: clipped ratio, value, entropy."""
    log = agent.policy(y).log_softmax(-1)
    taken = log.gather(-1, actions[..., None])[..., 0]
    ratio = (taken - old).exp()
    clipped = ratio.clamp(0.8, 1.2)
    entropy = -(log.exp() * log).sum(-1).mean()
    value = (agent.value(y)[..., 0] - gain).square().mean()
    return -torch.min(ratio * gain, clipped * gain).mean() + 0.5 * value - 0.01 * entropy
