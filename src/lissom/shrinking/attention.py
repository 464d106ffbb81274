"""torch's multi-head attention with fewer heads than its width would give."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FewerHeads(nn.Module):
    """`nn.MultiheadAttention` whose heads keep their width while their number shrinks.

    torch ties embed_dim = heads · head_dim; here the projections are [heads · head_dim, embed_dim].
    Parameters keep their names, and `forward` its arguments and results.

    Args:
        old: the module to take over, its projections already cut.
        heads: which of its heads are left.
        head_dim: the width of a head.
    """

    in_proj_weight: Tensor | None
    in_proj_bias: Tensor | None
    q_proj_weight: Tensor
    k_proj_weight: Tensor
    v_proj_weight: Tensor

    def __init__(self, old: nn.MultiheadAttention, heads: list[int], head_dim: int) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = old.embed_dim, len(heads), head_dim
        self.heads = heads
        self.dropout, self.batch_first = old.dropout, old.batch_first
        self.add_zero_attn = False
        self._qkv_same_embed_dim = False  # keeps nn.TransformerEncoderLayer off its fused path
        for name, parameter in old.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name in ("in_proj_weight", "in_proj_bias"):
            if not hasattr(self, name):
                self.register_parameter(name, None)
        self.out_proj: nn.Linear = old.out_proj
        self.out_proj.in_features = len(heads) * head_dim
        self.training = old.training

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`."""
        batched = query.ndim == 3
        given = [x if batched else x.unsqueeze(0) for x in (query, key, value)]
        if batched and not self.batch_first:
            given = [x.transpose(0, 1) for x in given]
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for x, weight, bias in zip(given, *self._projections(), strict=True)
        )  # [batch, heads, tokens, head_dim]
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        weights: Tensor | None = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights = torch.softmax(scores if mask is None else scores + mask, -1)
            mixed = F.dropout(weights, self.dropout, self.training) @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            dropout = self.dropout if self.training else 0.0
            alone = is_causal and key_padding_mask is None  # then torch does not look at the mask
            mixed = F.scaled_dot_product_attention(
                q, k, v, None if alone else mask, dropout, is_causal=alone
            )
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        return out, weights

    def _projections(self) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        weights: tuple[Tensor, ...]
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return weights, biases

    def _mask(
        self, q: Tensor, k: Tensor, padding: Tensor | None, mask: Tensor | None
    ) -> Tensor | None:
        """Both masks as numbers that are added to the scores."""
        total: Tensor | None = None
        if mask is not None:
            total = _added(mask, q.dtype)
            if total.ndim == 3:  # [batch · heads, tokens, tokens], of which some heads are gone
                total = total.view(len(q), -1, *total.shape[1:])[:, self.heads]
        if padding is not None:
            rows = padding if padding.ndim == 2 else padding.unsqueeze(0)
            hidden = _added(rows, q.dtype)[:, None, None, :]
            total = hidden if total is None else total + hidden
        return total


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)
    return mask.to(dtype)
