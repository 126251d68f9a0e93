# SPDX-License-Identifier: Apache-2.0
"""Structure from motion: verified matches in; poses, sparse points, the funnel and the metric scale out."""
