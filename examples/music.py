"""Compose a tune in a style, given by its number, and write it as a MIDI file: music.py [FILE]

A tune is a list of tokens, a pitch and a length in sixteenths each. Those that are learned are
drawn from three styles, each with a scale and a rhythm of its own.
"""

import struct
import sys
from pathlib import Path

import numpy as np

from rnnfast.models import SequenceGenerator

rng = np.random.default_rng(0)
STYLES = {  # the scale in semitones above middle C, and the rhythm, round and round
    0: ([0, 2, 4, 5, 7, 9, 11, 12], [4, 4, 8]),  # a march in C major
    1: ([0, 3, 5, 6, 7, 10, 12], [6, 2]),  # a swung blues
    2: ([0, 2, 4, 7, 9, 12], [8, 4]),  # a waltz on five notes
}


def tune(style):
    scale, rhythm = STYLES[style]
    place, tokens = 0, []
    for k in range(rng.integers(12, 20)):
        tokens.append(f"{60 + scale[place]}/{rhythm[k % len(rhythm)]}")
        place = int(np.clip(place + rng.choice([-2, -1, 1, 1, 2]), 0, len(scale) - 1))
    return [*tokens, "60/16"]  # it comes to rest on its first note


def variable_length(number):
    """A number as MIDI writes it: seven bits a byte, the last byte below 128."""
    parts = [number & 127]
    while number := number >> 7:
        parts.append(number & 127 | 128)
    return bytes(reversed(parts))


def midi(tokens):
    """A Standard MIDI File of one track, 4 ticks to the sixteenth."""
    events = b""
    for token in tokens:
        pitch, sixteenths = map(int, token.split("/"))
        events += b"\x00" + bytes([0x90, pitch, 80])  # on, at once
        events += variable_length(4 * sixteenths) + bytes([0x80, pitch, 0])  # off
    events += b"\x00\xff\x2f\x00"
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 16)  # 16 ticks to the quarter
    return header + b"MTrk" + struct.pack(">I", len(events)) + events


styles = rng.integers(len(STYLES), size=600)
model = SequenceGenerator(max_epochs=12, learning_rate=0.01, strategy="sample", random_state=0)
model.fit(styles, [tune(style) for style in styles])

fresh = rng.integers(len(STYLES), size=60)
right = total = 0
for style, tokens in zip(fresh, model.predict(fresh), strict=True):
    scale, rhythm = STYLES[style]
    allowed = {f"{60 + s}/{r}" for s in scale for r in rhythm} | {"60/16"}
    right += sum(token in allowed for token in tokens)
    total += len(tokens)
for style in STYLES:
    print(f"style {style}:", *model.predict([style])[0])
print(f"{right / total:.3f} of the notes of 60 new tunes are of their style")
assert right / total > 0.98

path = Path(sys.argv[1] if len(sys.argv) > 1 else "tune.mid")
path.write_bytes(midi(model.predict([1])[0]))
print(f"wrote {path}")
