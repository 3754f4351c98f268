"""numpy, where there is one: `np` has its own names, or types that no value is of.

Batches in the format 'numpy' need it, and what user code makes with it. Rows and Arrow's arrays
do not, so nothing else here may ask more of `np` than whether a value is its.
"""

import types

_ASKED = ("ndarray", "generic", "integer", "floating", "complexfloating", "datetime64", "timedelta64")


def _stand_in():
    nothing = type("nothing", (), {})
    masked = types.SimpleNamespace(MaskedArray=nothing, masked=nothing())
    return types.SimpleNamespace(ma=masked, **dict.fromkeys(_ASKED, nothing))


try:
    import numpy as np

    HAS_NUMPY = True
except ImportError:
    np = _stand_in()
    HAS_NUMPY = False


def array_of(tensor):
    """A tensor of torch as an array of numpy, one without dimensions as its value."""
    array = tensor.detach().cpu().numpy()
    return array if array.ndim else array[()]
