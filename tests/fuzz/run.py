"""Coverage-guided fuzzing of the compiled module and of the public calls; see README.md."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
import warnings
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

with atheris.instrument_imports(include=["rnnfast"], enable_loader_override=False):
    import rnnfast
    from rnnfast import _core
import option_problems  # noqa: E402, F401


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=["module", "public"])
    parser.add_argument("corpus", type=Path, help="folder of inputs, filled at first; or an input")
    parser.add_argument("--collect", type=Path, help="note failures in this file and go on")
    args, fuzzer = parser.parse_known_args()
    target = importlib.import_module(args.target)
    if not args.corpus.exists() or (args.corpus.is_dir() and not any(args.corpus.iterdir())):
        from problems_of_bytes import write_corpus

        write_corpus(args.corpus, target.CORPUS_FRONT, target.CORPUS_BACK)
    warnings.simplefilter("ignore")
    rnnfast.set_num_threads(2)
    print(f"{args.target}: {_core.build_info()['compiler']}, {_core.isa()}", flush=True)
    if args.target == "module" and target.torch is None:
        print("TensorStack is left out: there is no torch in this environment", flush=True)
    count, seen = 0, set()

    def one_input(data: bytes) -> None:
        nonlocal count
        count += 1
        try:
            target.one_input(data)
            if count % 64 == 1:
                target.steady()
        except Exception as error:
            if args.collect is None:
                raise
            where = traceback.extract_tb(error.__traceback__)
            key = (type(error).__name__, *((f.filename, f.lineno) for f in where[-3:]))
            if key not in seen:
                seen.add(key)
                with args.collect.open("a") as file:
                    file.write(f"--- {data.hex()}\n{traceback.format_exc()}\n")

    atheris.Setup([sys.argv[0], *fuzzer, str(args.corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
