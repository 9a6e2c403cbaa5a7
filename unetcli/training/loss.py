"""What training minimizes: the weighted cross-entropy (paper, equation 1), and beside it the soft Dice."""

import torch
from torch import Tensor


def weighted_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return ``-sum(w(x) log p_{l(x)}(x))`` divided by the number of pixels, a scalar.

    Parameters
    ----------
    logits : (N, K, H, W), any precision; the soft-max is taken in float32.
    target : class indices (N, H, W) of any integer type, any value where the weight is 0.
    weights : (N, H, W), 0 where a pixel is left out.

    The divisor counts all pixels, ignored ones too, so that the gradients of two halves of a batch add up to the
    gradient of the whole.
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=1)
    chosen = log_probabilities.gather(1, target.clamp(min=0).long().unsqueeze(1)).squeeze(1)  # (N, H, W)
    return -(weights * chosen).sum() / weights.numel()


def soft_dice_loss(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return one minus the soft Dice of the foreground classes, the mean over classes and patches, a scalar.

    Border weights count background more where there may be a gap; this term weighs all pixels alike. It is
    what Milletari et al. (2016, V-Net, section 3) minimize, without their squares, for each patch by itself, so that
    halves of a batch add up. A patch without a class has no gradient from it.

    Parameters
    ----------
    logits, target, weights : as for `weighted_cross_entropy`; where the weight is 0, a pixel is left out.
    """
    classes = logits.shape[1]
    counted = (weights > 0).unsqueeze(1)
    found = torch.softmax(logits.float(), dim=1)[:, 1:] * counted
    there = torch.stack([target == index for index in range(1, classes)], dim=1) & counted
    overlap, both = (found * there).sum(dim=(2, 3)), (found + there).sum(dim=(2, 3))
    return 1 - (2 * overlap / (both + 1)).mean()
