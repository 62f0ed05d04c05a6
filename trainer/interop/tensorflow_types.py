"""Names for objects of TensorFlow, Keras and h5py, which have no type annotations."""

from typing import Any, TypeAlias

TfTensor: TypeAlias = Any
"""A tensor of TensorFlow, eager or symbolic, or a value that Keras converts to a tensor."""
KerasLayer: TypeAlias = Any
"""A layer of Keras."""
KerasData: TypeAlias = Any
"""The inputs, labels and weights that Keras passes to steps of `fit`, `evaluate` and `predict`."""
Hdf5: TypeAlias = Any
"""An open file, a group or a data set of h5py."""
