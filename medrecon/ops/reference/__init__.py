# SPDX-License-Identifier: Apache-2.0
"""The ops in plain torch: what the kernels must equal, and what runs where there are none. Checks: see ``functions``.

Sources: mip-NeRF (Barron et al. 2021; its equation numbers are given) and its code google/mipnerf (internal/mip.py),
whose conventions and layouts are followed; SuperGlue (Sarlin et al. 2020) for the optimal transport.
"""

# ruff: noqa: F401 - which of them are public says medrecon.ops
from .contraction import contract
from .encodings import integrated_positional_encoding, positional_encoding
from .field import fused_field, fused_field_loss
from .fused_grid import fused_grid, fused_grid_loss
from .grid import grid_encode, grid_levels
from .lazy_adam import lazy_adam
from .march import march_rays
from .packed_rendering import composite_packed
from .rays import cast_rays
from .rendering import composite, resample
from .transport import log_sinkhorn
