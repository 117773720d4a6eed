"""The benchmark suite, ``rnnfast bench``: rnnfast and its peers on one grid, checked, then timed.

`grid.py` is what is measured, `limit.py` the least time a row can take on a machine whose peaks
`machine.py` measures. `driver.py` runs the rows: it has one process per peer and number of threads
(`process.py`; inside it `worker.py` and a file of `peers/`), gives all of them the same arrays
(`problem.py`), judges what they return (`check.py`), times them in turns (`statistics.py`), and
says where the time of a slow row went (`explain.py`).
`results.py` is the file of JSON lines, of which `report.py` makes a table, `picture.py` a picture
and `compare.py` a verdict. `environments.py` makes the environments that peers live in.

How to run it, and what the figures mean: docs/benchmarks.md.
"""
