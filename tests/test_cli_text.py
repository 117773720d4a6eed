"""Text: reading files, the vocabulary, and what each step reads."""

import numpy as np
import pytest

from rnnfast import ArgumentError
from rnnfast.cli.text import Corpus, Vocabulary, default_text, read_text


def test_files_are_joined_and_line_ends_made_one(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r")
    second.write_bytes("drei ß".encode())
    assert read_text([first, second]) == "one\ntwo\n\ndrei ß"


def test_files_that_cannot_be_learned_from(tmp_path):
    with pytest.raises(ArgumentError, match=r"absent cannot be read: No such file"):
        read_text([tmp_path / "absent"])
    empty, latin = tmp_path / "empty", tmp_path / "latin"
    empty.write_text(" \n")
    with pytest.raises(ArgumentError, match="empty is empty"):
        read_text([empty])
    latin.write_bytes("Größe".encode("latin1"))
    with pytest.raises(ArgumentError, match=r"latin is not UTF-8: byte 0xf6 at position 2.*iconv"):
        read_text([latin])


def test_default_text():
    text = default_text()
    assert len(text) > 400_000
    assert "a convenient way to insert debugging" in text
    assert text == default_text()


def test_vocabulary():
    vocabulary = Vocabulary("beard\n")
    assert vocabulary.characters == "\nabder"
    assert len(vocabulary) == 7
    assert vocabulary.unknown == 6
    tokens = vocabulary.encode("ra☃z\udcff")
    np.testing.assert_array_equal(tokens, [5, 1, 6, 6, 6])
    assert tokens.dtype == np.int64
    assert vocabulary.decode(tokens) == "ra<UNK><UNK><UNK>"
    assert vocabulary.outside("zebra z☃") == [" ", "z", "☃"]
    everything = default_text()
    whole = Vocabulary(everything)
    assert whole.decode(whole.encode(everything)) == everything


def test_characters_of_the_validation_text_alone_are_unknown():
    corpus = Corpus("ab" * 45 + "abcabcabca", 2, 4)
    assert corpus.vocabulary.characters == "ab"
    assert (corpus.tokens == corpus.vocabulary.unknown).sum() == 3


def test_readers_go_round_and_round():
    text = "".join(chr(300 + k) for k in range(110))  # cut at 99: every character its own index
    corpus = Corpus(text, 4, 5)
    assert corpus.cut == 99
    x, targets = corpus.window(0)
    assert x.shape == targets.shape == (5, 4)
    np.testing.assert_array_equal(x[0], [0, 24, 48, 72])
    read = [corpus.window(step)[0] for step in range(50)]
    whole = np.concatenate(read)
    for reader in range(4):
        expected = (np.arange(250) + 24 * reader) % 99
        np.testing.assert_array_equal(whole[:, reader], expected)
    for step in (0, 4, 19, 49):
        x, targets = corpus.window(step)
        np.testing.assert_array_equal(targets, (x + 1) % 99)
    assert corpus.characters_per_step == 20


@pytest.mark.parametrize(("characters", "fits"), [(22, False), (23, False), (24, True)])
def test_a_text_too_short(characters, fits):
    if fits:
        Corpus("x" * characters, 4, 5)
        return
    words = f"text has {characters} characters, of which {characters * 9 // 10} train.*reads 20"
    with pytest.raises(ArgumentError, match=words):
        Corpus("x" * characters, 4, 5)
