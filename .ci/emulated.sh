#!/usr/bin/env bash
# emulated.sh PYTHON CPU ISA: on an emulated x86-64 CPU the package must choose ISA, compute the very bits that ISA
# computes on this machine, and refuse an instruction set that the CPU lacks: running it would be a crash.
set -euo pipefail
python=$1 cpu=$2 isa=$3
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

emulated() {
  qemu-x86_64 -cpu "$cpu" "$python" "$@"
}

chosen=$(emulated -c "import rnnfast._core; print(rnnfast._core.isa())" 2>"$scratch/warnings")
if [ "$chosen" != "$isa" ]; then
  cat "$scratch/warnings"
  echo "emulated.sh: $cpu chose '$chosen', expected '$isa'"
  exit 1
fi

if refusal=$(RNNFAST_ISA=avx512 emulated -c "import rnnfast._core" 2>&1); then
  echo "emulated.sh: RNNFAST_ISA=avx512 was not refused on $cpu"
  exit 1
fi
grep "RNNFAST_ISA=avx512 was asked for" <<<"$refusal"

emulated "$here/results.py" "$scratch/emulated.npz" 2>"$scratch/warnings" || { cat "$scratch/warnings"; exit 1; }
RNNFAST_ISA=$isa "$python" "$here/results.py" "$scratch/real.npz"
"$python" - "$cpu" "$scratch/emulated.npz" "$scratch/real.npz" <<'END'
import sys

import numpy as np

cpu, emulated, real = sys.argv[1], np.load(sys.argv[2]), np.load(sys.argv[3])
assert set(emulated) == set(real) and len(real) > 0
different = [name for name in real if emulated[name].tobytes() != real[name].tobytes()]
print(f"{cpu}: {len(real)} arrays of results, {len(different)} differ", *different, sep="\n  ")
sys.exit(1 if different else 0)
END
