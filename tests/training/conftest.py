# SPDX-License-Identifier: Apache-2.0
"""Small trainings are quickest in one thread, and equal to the bit there."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
