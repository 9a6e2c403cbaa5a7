"""Pixel-wise weighted cross-entropy (paper, equation 1)."""

import torch
from torch import Tensor


def weighted_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return ``-sum(w(x) log p_{l(x)}(x))`` divided by the number of pixels, a scalar.

    Parameters
    ----------
    logits : (N, K, H, W), any precision; the soft-max is taken in float32.
    target : class indices (N, H, W), any value where the weight is 0.
    weights : (N, H, W), 0 where a pixel is left out.

    The divisor counts all pixels, ignored ones too, so that the gradients of two halves of a batch add up to the
    gradient of the whole.
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=1)
    chosen = log_probabilities.gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)  # (N, H, W)
    return -(weights * chosen).sum() / weights.numel()
