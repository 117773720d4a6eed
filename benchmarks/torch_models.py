"""Models and data of `torch_module.py`: what users of recurrent layers train, in small."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

WORDS, BATCH, LONGEST = 2000, 32, 40
_CLASSES, _OPENERS = 4, 40


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


def sentences(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Words (B, T), lengths (B,), tags (B, T) with -100 beyond the end, classes (B,).

    A word's tag is its class, and whether an odd number of openers came before it: so it takes
    memory. A sentence's class is that of its first word.
    """
    generator = torch.Generator().manual_seed(step)
    words = torch.randint(WORDS, (BATCH, LONGEST), generator=generator)
    lengths = torch.randint(5, LONGEST + 1, (BATCH,), generator=generator)
    inside = (words < _OPENERS).cumsum(1) % 2
    tags = words % _CLASSES + _CLASSES * inside
    tags[torch.arange(LONGEST) >= lengths[:, None]] = -100
    return words, lengths, tags, words[:, 0] % _CLASSES


class Trainer:
    """One training run; each call is a step on the next batch."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.losses = model, list[float]()
        self.adam = torch.optim.Adam(model.parameters(), lr=2e-3)

    def __call__(self) -> None:
        """Train on one batch."""
        step = len(self.losses)
        words, lengths, tags, classes = sentences(step)
        torch.manual_seed(step)  # the same dropout in every run
        logits = self.model(words, lengths)
        expected = tags if isinstance(self.model, Tagger) else classes
        loss = cross_entropy(logits.flatten(0, -2), expected.flatten())
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.losses.append(loss.item())


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
