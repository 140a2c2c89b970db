"""What the transformers' layers share."""

from __future__ import annotations

import pytest
import torch

from imanim.models.layers import Attention


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_attention_under_autocast_is_attention(masked):
    torch.manual_seed(0)
    layer, x, context = Attention(48, 3), torch.randn(4, 9, 48), torch.randn(4, 7, 48)
    mask = (torch.rand(4, 1, 1, 7) > 0.3).index_fill_(-1, torch.tensor(0), True) if masked else None
    exact = layer(x, context, mask)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x, context, mask)
    assert low.dtype == torch.bfloat16
    assert (low.float() - exact).abs().max() < 0.02 * exact.abs().max()
