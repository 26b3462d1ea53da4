"""Masked autoregressive flow: each feature is moved by what all features before it say.

    z_i = (x_i - t_i(x_1 .. x_{i-1}, c)) exp(-s_i(x_1 .. x_{i-1}, c))

The triangular Jacobian's log-determinant is -sum_i s_i. All t and s come from one masked network (MADE: Germain et al. 2015,
arXiv:1502.03509), so x -> z takes one pass; z -> x goes feature by feature. Papamakarios et al. 2017 (arXiv:1705.07057,
equations 3 to 6). Read backwards it is the inverse autoregressive flow of Kingma et al. 2016 (arXiv:1606.04934).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlkit.functional.affine import affine, soft_bound
from dlkit.nn.transforms import Changed, Transform


class MaskedAutoregressive(Transform):
    """One masked autoregressive layer, affine in each feature; it begins as the identity.

    Hidden unit h of every layer has a degree d(h), and reads only features 1 .. d(h), by way of units of no higher degree;
    feature i's parameters read units of degree below i. Units lie in the order of their degrees. So in the feature by feature
    direction each hidden unit is computed once, when the last feature that it reads is known, and the whole costs about what
    one pass does instead of one pass a feature.

    Args:
        features: of the vector.
        hidden_dims: widths of the masked network, at least one.
        context_features: width of the context, which every unit reads.
        backwards: the last feature comes first.
    """

    def __init__(self, features: int, hidden_dims: Sequence[int], context_features: int = 0, backwards: bool = False) -> None:
        super().__init__()
        if not hidden_dims:
            raise ValueError("hidden_dims=(): a masked network needs at least one hidden layer")
        self.features = features
        self.backwards = backwards
        # Degrees 0 .. features - 1: of degree 0 are units that read the context alone, of which there are none without one.
        lowest = 0 if context_features or features == 1 else 1
        span = features - lowest
        self.degrees = [features - torch.arange(features) if backwards else torch.arange(features) + 1]
        self.degrees += [lowest + torch.arange(width) * span // width for width in hidden_dims]
        # How many units of each hidden layer can be computed when so many features are known.
        self.ready = [[int((degrees <= known).sum()) for known in range(features)] for degrees in self.degrees[1:]]
        self.hidden = nn.ModuleList(MaskedLinear(reads <= gives.unsqueeze(1)) for reads, gives in pairwise(self.degrees))
        # A feature reads degrees below its own: all log-scales, then all shifts.
        self.head = MaskedLinear((self.degrees[-1] < self.degrees[0].unsqueeze(1)).repeat(2, 1))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.context = nn.Linear(context_features, hidden_dims[0], bias=False) if context_features else None

    def parameters_of(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Raw log-scales of every feature from those before it, then shifts: (batch, features) -> (batch, 2 features)."""
        hidden = x
        for number, layer in enumerate(self.hidden):
            hidden = layer(hidden)
            if number == 0 and self.context is not None:
                hidden = hidden + self.context(context)
            hidden = F.relu(hidden)
        return self.head(hidden).to(x.dtype)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Changed:
        z, log_derivative = affine(x, self.parameters_of(x, context), inverse=True)
        return z, log_derivative.sum(1)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Changed:
        if torch.is_grad_enabled():
            return self.forward_with_gradient(z, context)
        with torch.autocast(z.device.type, enabled=False):  # whose products could not be written in place
            return self.forward_in_place(z, context)

    @torch.compiler.disable()  # or the loop over features would be unrolled
    def forward_in_place(self, z: Tensor, context: Tensor | None) -> Changed:
        """z -> x, each hidden unit computed once, when the features that it reads are known."""
        masked = [layer for layer in (*self.hidden, self.head) if isinstance(layer, MaskedLinear)]
        weights: list[Tensor] = [layer.masked() for layer in masked]
        biases: list[Tensor] = [layer.bias.unsqueeze(1) for layer in masked]
        # Features and units first, so that what is known is one block of memory. Log-scale and shift of a feature together.
        z = z.t().contiguous()
        head_weight, head_bias = weights.pop().unflatten(0, (2, -1)), biases.pop().unflatten(0, (2, -1))
        if self.backwards:  # in the order of the degrees
            z, weights[0], head_weight, head_bias = z.flip(0), weights[0].flip(1), head_weight.flip(1), head_bias.flip(1)
        if self.context is not None:
            biases[0] = biases[0] + self.context(context).t()
        known = [z.new_empty(len(degrees), z.shape[1]) for degrees in self.degrees]  # of units after the nonlinearity
        filled = [0] * len(known)
        log_scales = torch.empty_like(z)
        for feature in range(self.features):
            filled[0] = feature
            for number, ready in enumerate(self.ready):
                start, stop, read = filled[number + 1], ready[feature], filled[number]
                if stop > start:
                    new = known[number + 1][start:stop]
                    torch.addmm(biases[number][start:stop], weights[number][start:stop, :read], known[number][:read], out=new)
                    new.clamp_min_(0)
                    filled[number + 1] = stop
            read = filled[-1]
            raw, shift = torch.addmm(head_bias[:, feature], head_weight[:, feature, :read], known[-1][:read]).unbind(0)
            log_scales[feature] = soft_bound(raw)
            torch.addcmul(shift, z[feature], torch.exp(log_scales[feature]), out=known[0][feature])
        x = known[0].flip(0) if self.backwards else known[0]
        return x.t().contiguous(), log_scales.sum(0)

    @torch.compiler.disable()
    def forward_with_gradient(self, z: Tensor, context: Tensor | None) -> Changed:
        """The same where gradients are wanted, which forbid to write in place: a pass for each feature.

        After pass i the features 1 .. i are right, whatever the others were.
        """
        x = log_derivative = torch.zeros_like(z)
        for _ in range(self.features):
            x, log_derivative = affine(z, self.parameters_of(x, context))
        return x, log_derivative.sum(1)


class MaskedLinear(nn.Linear):
    """A linear layer of which only the weights under a mask count: (batch, in) -> (batch, out).

    Args:
        mask: (out, in), bool, True where an output reads an input.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype))

    def masked(self) -> Tensor:
        """The weights that count: (out, in)."""
        return self.weight * self.mask

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.masked(), self.bias)
