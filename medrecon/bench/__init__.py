# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: front ends (extractor + matcher) against exact truth, and on the user's own pictures."""
