#!/usr/bin/env bash
# emulated.sh PYTHON CPU ISA: on an emulated x86-64 CPU the package must choose ISA, its kernels must keep the
# yardstick, and an instruction set that the CPU lacks must be refused: running it would be a crash.
set -euo pipefail
python=$1 cpu=$2 isa=$3

emulated() {
  qemu-x86_64 -cpu "$cpu" "$python" "$@"
}

chosen=$(emulated -c "import rnnfast._core; print(rnnfast._core.isa())")
if [ "$chosen" != "$isa" ]; then
  echo "emulated.sh: $cpu chose $chosen, expected $isa"
  exit 1
fi

if refusal=$(RNNFAST_ISA=avx512 emulated -c "import rnnfast._core" 2>&1); then
  echo "emulated.sh: RNNFAST_ISA=avx512 was not refused on $cpu"
  exit 1
fi
grep "RNNFAST_ISA=avx512 was asked for" <<<"$refusal"

# The worker of `rnnfast check` and not the command itself: a child process would run on the real CPU.
findings=$(emulated -m rnnfast.cli.check_kernels "$isa")
"$python" - "$cpu" "$isa" "$findings" <<'END'
import json
import sys

cpu, isa, text = sys.argv[1:]
findings = [json.loads(line) for line in text.splitlines()]
worst = max(ratio for _, _, ratio, _ in findings)
print(f"{cpu}: {len(findings)} {isa} kernels, the worst at {worst:.2f} of the yardstick")
sys.exit(0 if worst <= 1 else 1)
END
