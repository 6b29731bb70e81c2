"""MixUnlearn's generator of blends and its contrastive losses (docs/methods.md, MixUnlearn).

n forget and m remain samples are blended in P pairs: `first` (P,) and `second` (P,) index them. Losses take
predictions: softmax outputs (.., classes), and targets that are distributions too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_SURE = 1e-3


class Generator(nn.Module):
    """Shows for each pair which pixels to take from the forget sample, in the style of AutoMix's MixBlock.

    Queries from the forget sample's features and lambda, keys and values from the remain sample's and
    1 - lambda, each by a 1x1 convolution on a grid of at most `grid` x `grid`; scaled dot-product attention.
    The mask's logits are centred on logit(lambda), so that lambda stays the share of the forget sample and
    the generator only decides where. That, the grid and the single head are our choices.
    """

    def __init__(self, channels: int, width: int, grid: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels + 1, width, 1)
        self.key = nn.Conv2d(channels + 1, width, 1)
        self.value = nn.Conv2d(channels + 1, 1, 1)
        self.grid = grid

    def forward(self, forget: Tensor, remain: Tensor, share: float, size: tuple[int, int]) -> Tensor:
        """Return masks (P, 1, *size) in (0, 1) for features `forget` and `remain` (P, channels, h, w).

        share: lambda, in [0, 1].
        """
        forget, remain = self._pooled(forget, share), self._pooled(remain, 1 - share)
        query = self.query(forget).flatten(2).transpose(1, 2)
        key = self.key(remain).flatten(2).transpose(1, 2)
        value = self.value(remain).flatten(2).transpose(1, 2)
        where = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        where = (where - where.mean(2, keepdim=True)).reshape(len(forget), 1, *forget.shape[2:])
        centre = torch.logit(torch.tensor(share), eps=MOST_SURE).item()
        return (functional.interpolate(where, size, mode="bilinear") + centre).sigmoid()

    def _pooled(self, features: Tensor, share: float) -> Tensor:
        height, width = (min(side, self.grid) for side in features.shape[2:])
        pooled = functional.adaptive_avg_pool2d(features, (height, width))
        return torch.cat([pooled, torch.full_like(pooled[:, :1], share)], 1)


def pairs(forget: int, remain: int, pairing: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return `first` and `second`, (P,): all forget x remain pairs, first index slowest, or one with one."""
    if pairing == "diagonal":
        return torch.arange(forget, device=device), torch.arange(remain, device=device)
    first = torch.arange(forget, device=device).repeat_interleave(remain)
    return first, torch.arange(remain, device=device).repeat(forget)


def dissimilarity(predictions: Tensor, targets: Tensor) -> Tensor:
    """S(a, b) = 1 - cos(a, b) over the last axis."""
    return 1 - functional.cosine_similarity(predictions, targets, dim=-1)


def mixing_loss(
    predictions: Tensor, forget: Tensor, remain: Tensor, share: float, temperature: float, columns: int
) -> Tensor:
    """L_mix: blends near their remain targets and away from their forget targets, mean over remain samples.

    mean_ij (1 - lambda) S(p_ij, remain_ij) - mean_j logsumexp_i lambda S(p_ij, forget_ij) / tau. The
    published sum leaves the i of its numerator open; here it is averaged. The unlearner lowers this, the
    generator, with its own tau, raises it.

    Args:
        predictions, forget, remain: (P, classes), of the blends and their two targets.
        columns: the number m of remain samples of dense pairs, i slowest; 1 for one with one, so that the
            logsumexp is over all blends.
    """
    near = (1 - share) * dissimilarity(predictions, remain)
    away = share * dissimilarity(predictions, forget) / temperature
    return near.mean() - away.view(-1, columns).logsumexp(0).mean()


def real_loss(
    forget: Tensor, forget_targets: Tensor, remain: Tensor, remain_targets: Tensor, temperature: float
) -> Tensor:
    """L_real, over the number of remain samples: mean_j S(remain_j) - logsumexp_i S(forget_i) / tau."""
    away = dissimilarity(forget, forget_targets) / temperature
    return dissimilarity(remain, remain_targets).mean() - away.logsumexp(0)
