# SPDX-License-Identifier: Apache-2.0
"""``medrecon bench speed``: the ops and the training step beside plain torch and the machine's limits.

Needs only torch and numpy."""
