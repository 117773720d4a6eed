"""The CUDA back end: NumPy arrays on a GPU, for ``device="cuda"``.

`engine` has the contract of the compiled CPU module; `_layer` makes one pass of one layer, of any
arrays that lie on a device, into what ``rnnfast._cuda`` takes.
"""
