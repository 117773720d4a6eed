"""The CUDA back end.

`engine` takes NumPy arrays there and back for ``device="cuda"``; `on_device` runs arrays that lie
on a GPU already, where results stay as `DeviceArray`. Both have the contract of the compiled CPU
module; `_layer` makes one pass of one layer, of any arrays that lie on a device, into what
``rnnfast._cuda`` takes.
"""

from ._arrays import DeviceArray
from ._precision import tf32

__all__ = ["DeviceArray", "tf32"]
