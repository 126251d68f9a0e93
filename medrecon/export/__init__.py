# SPDX-License-Identifier: Apache-2.0
"""The run in other programs' formats. Every file says its unit, or that the scale is unknown."""
