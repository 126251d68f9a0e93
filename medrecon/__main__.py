# SPDX-License-Identifier: Apache-2.0
"""``python -m medrecon`` is the same as ``medrecon``."""

from medrecon.cli import entry

entry()
