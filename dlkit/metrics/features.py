"""Frechet and kernel distances between images in the features of a network of one's own, or of Inception."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

DistanceT = TypeVar("DistanceT", bound=Metric)
TOLERANCE = 1e-4  # by how much rounding may take an image out of [0, 1]


class FeatureNetwork(nn.Module):
    """A frozen copy of a features function, as `frechet_distance`, `kernel_distance` and torchmetrics take it.

    It is a copy in evaluation mode and without gradients, so that the yardstick stays the same when the network it came from
    trains on. torchmetrics hands a network of one's own the images as they are, so they must be floats in [0, 1]; bytes
    (uint8, 0 to 255) are divided by 255.

    Args:
        features: maps (n, channels, height, width) in [0, 1] to (n, num_features): a module, a method of a module such as
            `ClassifierNetwork.features`, or a function.
        num_features: how many features an image has.

    Raises:
        ValueError: num_features below 1; images outside [0, 1]; features of another shape.
    """

    def __init__(self, features: Callable[[Tensor], Tensor], num_features: int) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features={num_features} must be at least 1")
        self.num_features = num_features
        self.features = copy.deepcopy(features)
        owner = getattr(self.features, "__self__", None)
        if isinstance(owner, nn.Module):
            self.owner = owner  # a method of a module: the module must move to the device with us
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x: (n, channels, height, width), floats in [0, 1] or bytes -> (n, num_features)."""
        if x.dtype == torch.uint8:
            x = x.float() / 255
        low, high = x.aminmax()
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise ValueError(
                f"images have values from {low:g} to {high:g}, FeatureNetwork takes [0, 1]: map [-1, 1] by (x + 1) / 2"
            )
        features = self.features(x)
        if features.shape != (len(x), self.num_features):
            raise ValueError(
                f"the features of {len(x)} images have the shape {tuple(features.shape)}, not {(len(x), self.num_features)}: "
                f"return (n, num_features) and set num_features to it"
            )
        return features


def frechet_distance(network: FeatureNetwork | None = None) -> FrechetInceptionDistance:
    """A metric: the Frechet distance between Gaussians fitted to the features of real and of generated images.

    |m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^(1/2)), with the features' means m and covariances C: Heusel et al. 2017
    (arXiv:1706.08500), equation 6. Only with Inception (network=None) is it the FID of papers; with another network name
    that network. It is biased upwards, the more so the fewer images: compare numbers of equal numbers of images only, many
    more than features, and print the distance between real training and real test images beside them.

    Use: `metric.update(images, real=True)`, `metric.update(images, real=False)`, `metric.compute()`, a scalar; images are
    floats in [0, 1]. Inception takes three channels, and torchmetrics rounds its input down to bytes.

    Args:
        network: gives the features; None takes the 2048 of torchmetrics' Inception v3 (downloaded weights).

    Raises:
        ValueError: network=None while torch-fidelity is missing or the weights cannot be downloaded.
    """
    if network is None:
        return inception(lambda: FrechetInceptionDistance(normalize=True))
    return FrechetInceptionDistance(network, normalize=True)


def kernel_distance(
    network: FeatureNetwork | None = None, subset_size: int = 1000, subsets: int = 100
) -> KernelInceptionDistance:
    """A metric: the squared maximum mean discrepancy between the features of real and of generated images.

    With the kernel (x.y / num_features + 1)^3, unbiased, averaged over random subsets: Binkowski et al. 2018
    (arXiv:1801.01401), section 4. Equal distributions have 0 on average, so it may be slightly negative.

    Use as `frechet_distance`; `compute()` gives the mean and the standard deviation over subsets. The subsets are drawn from
    torch's global random state, and all features are kept until `reset()`.

    Args:
        network: gives the features; None takes the 2048 of torchmetrics' Inception v3 (downloaded weights).
        subset_size: images of each kind in a subset; at least so many of each kind must be given.
        subsets: how many subsets.

    Raises:
        ValueError: subset_size or subsets below 1; network=None while torch-fidelity is missing or the weights cannot be
            downloaded.
    """
    for name, value in (("subset_size", subset_size), ("subsets", subsets)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all extracted features")
        if network is None:
            return inception(lambda: KernelInceptionDistance(subset_size=subset_size, subsets=subsets, normalize=True))
        return KernelInceptionDistance(network, subset_size=subset_size, subsets=subsets, normalize=True)


def inception(build: Callable[[], DistanceT]) -> DistanceT:
    """Builds a metric that needs Inception's weights, or says in a sentence what is missing.

    Raises:
        ValueError: torch-fidelity is not installed, or the weights cannot be downloaded.
    """
    try:
        return build()
    except ModuleNotFoundError as error:
        raise ValueError(
            "Inception features need the package torch-fidelity, which is not installed: run `pip install torch-fidelity`, "
            "or give a FeatureNetwork"
        ) from error
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the weights of Inception could not be downloaded ({error}): connect to the network once, or give a FeatureNetwork"
        ) from error
