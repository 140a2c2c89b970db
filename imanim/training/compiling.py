"""torch.compile for training: the model's repeated blocks, each as one graph.

Blocks and not the whole model: equal blocks share their code, so a deep model compiles as fast as a shallow one, and what is in
between (the codebook, the VAE, the choice of an attention kernel) may stay Python. What is compiled is a block's ``forward``, not
its call: under ZeRO 3 the call runs DeepSpeed's hooks, which cannot be traced (LOG.md has the numbers). They stay outside then,
one pair around each block instead of one around every layer of it: DeepSpeed takes the block for a leaf and gathers it whole.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import nn

from imanim.errors import InputError
from imanim.models.expression import ExpressionBlock
from imanim.models.layers import Block
from imanim.models.retargeter import FactorisedLayer
from imanim.models.titok import TiTokBlock

BLOCKS: tuple[type[nn.Module], ...] = (Block, TiTokBlock, FactorisedLayer, ExpressionBlock, WanTransformerBlock)
"""The classes of which the model has several in a row."""

VERSIONS = 64
"""Most versions of one class's code: by width, by whether gradients are wanted, by shape (training, validation, pictures). Torch's
own limit of 8 is soon reached where all blocks of a class share it; beyond ours the run ends (:func:`failure`)."""


def check(device: torch.device) -> None:
    """Compiles a line for ``device``. Raises InputError when this machine cannot: no C++ compiler, no Triton, a cache that is
    read-only."""
    try:
        torch.compile(lambda x: x.sin() + 1, fullgraph=True)(torch.ones(4, device=device))
    except Exception as error:  # a compiler fails in its own ways
        needs = "a C++ compiler (apt-get install g++, or CXX=)" if device.type == "cpu" else "Triton and a C compiler"
        raise InputError(
            f"compile: true, but torch.compile does not work here ({_first_line(error)}); on a {device.type.upper()} it needs "
            f"{needs}; or set compile=false"
        ) from None


def compile_blocks(module: nn.Module, *, shapes: bool) -> None:
    """Has every repeated block of ``module`` compiled when it first runs. Before DeepSpeed sees it; names and weights stay.

    Args:
        shapes: samples come in several (``data.buckets``): code for any shape instead of one version each. Torch would change
            over by itself at the second shape it sees, but then a run that continues computes with other code than one that
            was not interrupted.
    """
    from deepspeed.utils import set_z3_leaf_module

    how: Any = {"fullgraph": True, "dynamic": shapes, "recompile_limit": VERSIONS}
    for block in module.modules():
        if isinstance(block, BLOCKS):
            set_z3_leaf_module(block, True)
            block.forward = torch.compile(block.forward, **how)


def failure(error: BaseException | None) -> InputError | None:
    """What to tell the user of an error, when it is the compiler's; else None."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    if not isinstance(error, (TorchDynamoException, FailOnRecompileLimitHit)):
        return None
    return InputError(
        f"compile: true, but a block of this model cannot be compiled ({_first_line(error)}); set compile=false"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
