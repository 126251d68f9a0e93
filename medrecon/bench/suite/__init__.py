# SPDX-License-Identifier: Apache-2.0
"""The paper's tables and figures: sequences, runs that are shared and resumed, published values and verdicts."""
