#!/usr/bin/env python3
"""Read the compiled kernels and fail on what no test of results can see.

Each finding would be a crash or a slowdown on somebody else's machine only:

weak      an object compiled for one instruction set holds a weak symbol. The linker keeps one copy
          of a weak symbol, from whichever object comes first: the baseline may then run AVX code
          and die on an old CPU.
too new   an object that must run on every x86-64 CPU holds an instruction of AVX or later.
spill     the innermost loop of a tile goes through the stack: the compiler ran out of registers
          and the loop is several times slower than it should be.

Usage: check_objects.py BUILD_DIR
BUILD_DIR is CMake's; the instruction set of an object is read from its target,
kernels_<isa>_<dtype>.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KERNELS = re.compile(r"kernels_(?P<isa>[a-z0-9]+)_(?P<dtype>f32|f64)\.dir/")

# Instruction sets whose objects the baseline must not share code with.
NEWER = ("avx2", "avx512")

# VEX and EVEX mnemonics begin with v, mask instructions with k; BMI is VEX-encoded under plain
# names. tzcnt is absent on purpose: compilers write it as `rep bsf`, which old CPUs run as bsf.
TOO_NEW = re.compile(
    r"v(?!err$|erw$)[a-z0-9]+$|k(?:mov|and|or|xor|not|test|ortest|shift|unpck|add)[a-z]*$"
    r"|(?:sarx|shlx|shrx|rorx|mulx|andn|bextr|blsi|blsr|blsmsk|bzhi|pdep|pext|lzcnt|movbe)[lqw]?$"
)

# The functions that hold accumulators (csrc/cpu/tile.h). A cell's elementwise part may use the
# stack: it runs once per tile, not once per k.
TILE = re.compile(r"\b\w*tile<")

# The baseline has no fused instruction: its multiplications are counted.
MULTIPLY = re.compile(r"(?:vfn?m(?:add|sub)\d+|v?mul)p[sd]$")


@dataclass(frozen=True)
class Instruction:
    """One line of a disassembly."""

    address: int
    mnemonic: str
    operands: str


@dataclass(frozen=True)
class Loop:
    """An innermost loop: the instructions from a backward jump's target to the jump."""

    function: str
    body: tuple[Instruction, ...]

    @property
    def multiplies(self) -> bool:
        """Whether this is a product and not, say, a copy."""
        return any(MULTIPLY.match(i.mnemonic) for i in self.body)

    def stack_operands(self, frame_pointer: bool) -> list[Instruction]:
        """Instructions that read or write the stack; rbp addresses it only as a frame pointer."""
        pattern = re.compile(r"\(%r[sb]p[,)]" if frame_pointer else r"\(%rsp[,)]")
        return [i for i in self.body if pattern.search(i.operands) and i.mnemonic[:3] != "lea"]


def run(*command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def disassemble(object_file: Path) -> dict[str, list[Instruction]]:
    """Return the instructions of every function of an object, in order."""
    text = run("objdump", "-d", "-C", "--no-show-raw-insn", str(object_file))
    functions: dict[str, list[Instruction]] = {}
    name = ""
    for line in text.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            name = head.group(1)
            while name in functions:  # two sections may hold local symbols of one name
                name += "'"
            functions[name] = []
        elif code := re.match(r"\s*([0-9a-f]+):\s+(.*)$", line):
            words = code.group(2).split(maxsplit=1)
            # `rep`, `lock`, `bnd`, `notrack`, ... stand before the instruction proper
            while words and words[0] in {
                "rep",
                "repz",
                "repnz",
                "lock",
                "bnd",
                "notrack",
                "data16",
                "cs",
            }:
                words = words[1].split(maxsplit=1) if len(words) > 1 else []
            if words:
                operands = words[1] if len(words) > 1 else ""
                functions[name].append(Instruction(int(code.group(1), 16), words[0], operands))
    return functions


def innermost_loops(function: str, code: list[Instruction]) -> Iterator[Loop]:
    """Ranges between a backward jump and its target that hold no smaller such range."""
    position = {instruction.address: n for n, instruction in enumerate(code)}
    ranges = []
    for n, instruction in enumerate(code):
        if instruction.mnemonic.startswith("j"):
            target = re.match(r"([0-9a-f]+)\b", instruction.operands)
            start = position.get(int(target.group(1), 16)) if target else None
            if start is not None and start <= n:
                ranges.append((start, n))
    for start, end in ranges:
        if not any((s, e) != (start, end) and start <= s and e <= end for s, e in ranges):
            yield Loop(function, tuple(code[start : end + 1]))


def weak_symbols(object_file: Path) -> list[str]:
    """Return the symbols of which the linker would keep one copy of several."""
    found = []
    for line in run("nm", "-C", str(object_file)).splitlines():
        kind = line[17:18] if len(line) > 17 else ""
        if kind in {"W", "V", "u"}:
            found.append(line[19:])
    return found


def too_new(object_file: Path) -> list[str]:
    """Return the instructions that a plain x86-64 CPU does not have."""
    return [
        f"{function}: {i.mnemonic} {i.operands}"
        for function, code in disassemble(object_file).items()
        for i in code
        if TOO_NEW.match(i.mnemonic)
    ]


def tile_loops(object_file: Path) -> dict[str, list[tuple[Loop, list[Instruction]]]]:
    """Return for each tile its innermost loops that multiply, and the stack operands of each."""
    found: dict[str, list[tuple[Loop, list[Instruction]]]] = {}
    for function, code in disassemble(object_file).items():
        if not TILE.search(function):
            continue
        frame_pointer = any(i.mnemonic == "mov" and i.operands == "%rsp,%rbp" for i in code)
        found[function] = [
            (loop, loop.stack_operands(frame_pointer))
            for loop in innermost_loops(function, code)
            if loop.multiplies
        ]
    return found


def check(build: Path) -> list[str]:
    """Return every finding in a build tree, in words; print what was looked at."""
    objects = sorted(build.rglob("*.o"))
    isas = {path: match.group("isa") for path in objects if (match := KERNELS.search(str(path)))}
    missing = {"baseline", *NEWER} - set(isas.values())
    if missing:
        return [f"{build}: no object of {', '.join(sorted(missing))} among {len(objects)} objects"]

    findings = []
    for path in objects:
        name = path.relative_to(build)
        isa = isas.get(path, "baseline")  # dispatch and bindings run on every CPU too
        if path in isas:
            findings += [f"weak: {name}: {symbol}" for symbol in weak_symbols(path)]
        if isa not in NEWER:
            findings += [f"too new: {name}: {where}" for where in too_new(path)]
        if path not in isas:
            print(f"{name}: runs on every CPU")
            continue
        tiles = tile_loops(path)
        if not tiles:
            findings.append(f"{name}: no tile found, so nothing was checked for spills")
        for tile, loops in tiles.items():
            if not loops:
                findings.append(f"{name}: {tile}: no loop found, so it was not checked for spills")
            for _, spills in loops:
                findings += [
                    f"spill: {name}: {tile}: {i.address:x}: {i.mnemonic} {i.operands}"
                    for i in spills
                ]
        loops = [loop for tile in tiles.values() for loop in tile]
        spilled = sum(1 for _, spills in loops if spills)
        print(f"{name}: {isa}, {len(tiles)} tiles, {len(loops)} loops, {spilled} with spills")
    return findings


def main(arguments: list[str]) -> int:
    """Print the findings; the status is 1 if there are any."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    findings = check(Path(arguments[0]))
    for finding in findings:
        print(finding)
    print(f"check_objects: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
