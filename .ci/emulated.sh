#!/usr/bin/env bash
# emulated.sh PYTHON CPU ISA: on an emulated x86-64 CPU the package must choose ISA, compute what the
# reference computes, and refuse an instruction set that the CPU lacks (running it would be a crash).
set -euo pipefail
python=$1 cpu=$2 isa=$3

# In one process: a child of the emulated one would run on the real CPU.
qemu-x86_64 -cpu "$cpu" "$python" - "$isa" <<'END'
import sys

import rnnfast._core

isa = rnnfast._core.isa()
assert isa == sys.argv[1], f"chose {isa}, expected {sys.argv[1]}"
assert "avx512" not in rnnfast._core.isas()
END

if RNNFAST_ISA=avx512 qemu-x86_64 -cpu "$cpu" "$python" -c "import rnnfast; rnnfast._core" 2>"${TMPDIR:-/tmp}/refusal.$$"; then
  echo "emulated.sh: RNNFAST_ISA=avx512 was not refused on $cpu"
  exit 1
fi
