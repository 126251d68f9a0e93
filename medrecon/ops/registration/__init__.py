# SPDX-License-Identifier: Apache-2.0
"""Shapes (for torch.compile) and gradients of the operators that csrc/operators defines."""

from .encodings import register_encodings
from .field import register_field
from .fused_grid import register_fused_grid
from .grid import register_grid
from .lazy_adam import register_lazy_adam
from .march import register_march
from .packed_rendering import register_packed_rendering
from .rays import register_rays
from .rendering import register_rendering
from .transport import register_transport


def register_all() -> None:
    """Once, when the operators are loaded."""
    register_rays()
    register_encodings()
    register_rendering()
    register_packed_rendering()
    register_grid()
    register_march()
    register_transport()
    register_field()
    register_fused_grid()
    register_lazy_adam()
