# SPDX-License-Identifier: Apache-2.0
"""What every learned component shares: where weights lie, how they are read, and the formats they come in."""
