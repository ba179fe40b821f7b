"""Trains in whitened coordinates, ships in plain ones.

Features of DINOv2's last block are far from round: a constant part carries two thirds of their power and the variances
along their axes span six orders of magnitude, so that a projector trained on them as they are learns the constant part
and hardly a picture. Whitening is affine, and so is the projector's first layer: it is folded in when training ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jetson_runtime.console import require

__all__ = ["Whitening", "fit_whitening", "fold"]


@dataclass(frozen=True)
class Whitening:
    """`apply(x) = (x - mean) @ matrix`; mean [width], matrix [width, width], symmetric."""

    mean: Any
    matrix: Any

    def apply(self, features: Any) -> Any:
        """Whitened features, [..., width]."""
        return (features - self.mean) @ self.matrix


def fit_whitening(features: Any, floor: float) -> Whitening:
    """The whitening of `features` [rows, width]; variances far below `floor` are not blown up."""
    torch = require("torch", "realign")
    mean = features.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov(features.T.double()))
    matrix = (axes * (variances.clamp(min=0) + floor).rsqrt()) @ axes.T
    return Whitening(mean, matrix.to(features.dtype))


def fold(tensors: Mapping[str, Any], whitening: Whitening) -> dict[str, Any]:
    """A projector for plain features that gives what `tensors` gives for whitened ones."""
    weight = tensors["linear_1.weight"] @ whitening.matrix
    return {
        **tensors,
        "linear_1.weight": weight,
        "linear_1.bias": tensors["linear_1.bias"] - weight @ whitening.mean,
    }
