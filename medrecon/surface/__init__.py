# SPDX-License-Identifier: Apache-2.0
"""Surfaces of a trained field (extract.py): the isosurface of its density (marching_cubes.py) or its rendered depths,
fused (tsdf.py); kept where it was seen, cleaned, coloured (finish.py), and measured (measure.py)."""
