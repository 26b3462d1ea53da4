"""What accompanies every run: checkpoints that resume exactly, random state, averages, progress, pictures."""

from dlkit.callbacks.checkpoints import Checkpoints
from dlkit.callbacks.compile import Compile
from dlkit.callbacks.densities import Densities
from dlkit.callbacks.diagnostics import AdversarialDiagnostics
from dlkit.callbacks.ema import ExponentialMovingAverage
from dlkit.callbacks.gan_lab import GANLab
from dlkit.callbacks.pictures import Pictures
from dlkit.callbacks.progress import Progress
from dlkit.callbacks.quality import Quality
from dlkit.callbacks.random_state import RandomState
from dlkit.callbacks.summary import Summary
from dlkit.callbacks.translations import Translations

__all__ = [
    "AdversarialDiagnostics",
    "Checkpoints",
    "Compile",
    "Densities",
    "ExponentialMovingAverage",
    "GANLab",
    "Pictures",
    "Progress",
    "Quality",
    "RandomState",
    "Summary",
    "Translations",
]
