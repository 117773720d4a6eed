"""The table of breaks beside this file, and how one is made."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).resolve().parent / "mutants.toml"

TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Mutant:
    """One break."""

    name: str
    what: str
    file: str
    old: str
    new: str
    tests: str

    @property
    def cuda(self) -> bool:
        """Whether the CUDA module has to be built again, for the CPU."""
        return self.file.startswith("csrc/") and "cuda" in self.tests

    @property
    def on_twin(self) -> bool:
        """Whether its tests run on the CUDA module that was compiled for the CPU."""
        return self.cuda or "cuda" in self.tests

    @property
    def compiled(self) -> bool:
        """Whether the package has to be built again."""
        return self.file.startswith("csrc/") and not self.cuda

    def broken(self, text: str) -> str | None:
        """Return the file's text with the break, or None unless its words stand there once."""
        words = re.compile(r"\s*".join(re.escape(word) for word in TOKEN.findall(self.old)))
        if len(words.findall(text)) != 1:
            return None
        return words.sub(lambda match: self.new, text)


def read_mutants() -> list[Mutant]:
    """Read the table; a missing or unknown key is an error."""
    table = tomllib.loads(TABLE.read_text("utf-8"))
    return [Mutant(name, **row) for name, row in table.items()]
