# SPDX-License-Identifier: Apache-2.0
"""Surfaces: out of the density of a trained field (extract.py), cleaned, coloured, and measured (measure.py)."""
