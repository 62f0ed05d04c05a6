"""Whether attention with plain products is computed in one grid or in blocks of queries.

Dimensions: B sequences, the longest of L tokens; H heads.
"""

import torch

from trainer.models.packing import Layout

FEW_SCORES = 1 << 22
"""Batches of up to this many scores [B, H, L, L] are not split: launching kernels for several
blocks would take longer than computing one grid. The number is an estimate from the memory traffic
of a T4, not a measurement.
"""


def is_split_in_blocks(layout: Layout, num_heads: int) -> bool:
    """Whether to compute scores in blocks of queries, and again in the backward pass.

    This is for GPUs on which no kernel supports the case: scores [B, H, L, L] would otherwise be
    kept for the backward pass. Batches with few scores use grids, unless the model is compiled. A
    caller's mask that gets gradients needs a grid, and so does an exported graph.
    """
    if layout.device.type == "cpu" or torch.compiler.is_exporting() or layout.trains_mask:
        return False
    if torch.compiler.is_compiling():  # one graph for all lengths
        return True
    return layout.num_sequences * num_heads * layout.longest**2 > FEW_SCORES
