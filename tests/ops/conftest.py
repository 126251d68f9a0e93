# SPDX-License-Identifier: Apache-2.0
"""Two threads and one seed for all tests of the ops."""

import pytest
import torch


@pytest.fixture(autouse=True)
def two_threads_one_seed():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
