# SPDX-License-Identifier: Apache-2.0
"""Figures of a run: what was measured, against what, in which unit, how well (analyse.py runs them all)."""
