# SPDX-License-Identifier: Apache-2.0
"""The public ops: checks that name the argument, then the kernel, or the reference where there is none.

Shared by all: tensors are float32 or float64, of one dtype and on one device; any strides; sizes of 0 and 1 are fine.
What does not fit raises ValueError. Computation is in the dtype given: inside autocast, pass float32.
"""

# ruff: noqa: F401 - which of them are public says medrecon.ops
from .encodings import integrated_positional_encoding, positional_encoding
from .field import fused_field, fused_field_loss
from .fused_grid import fused_grid, fused_grid_loss
from .grid import grid_encode, grid_levels
from .lazy_adam import LazyAdam
from .march import Packed, march_rays
from .packed_rendering import composite_packed
from .rays import cast_rays
from .rendering import composite, resample
from .transport import log_sinkhorn
