"""What accompanies every run: checkpoints that resume exactly, random state, averages, progress, pictures."""

from dlkit.callbacks.bags import BagAttention
from dlkit.callbacks.checkpoints import Checkpoints
from dlkit.callbacks.compile import Compile
from dlkit.callbacks.densities import Densities
from dlkit.callbacks.diagnostics import AdversarialDiagnostics
from dlkit.callbacks.ema import ExponentialMovingAverage
from dlkit.callbacks.final_validation import FinalValidation
from dlkit.callbacks.gan_lab import GANLab
from dlkit.callbacks.pictures import Pictures
from dlkit.callbacks.predictions import Predictions
from dlkit.callbacks.progress import Progress
from dlkit.callbacks.quality import Quality
from dlkit.callbacks.random_state import RandomState
from dlkit.callbacks.set_pictures import SetPictures
from dlkit.callbacks.summary import Summary
from dlkit.callbacks.trajectories import Trajectories
from dlkit.callbacks.translations import Translations

__all__ = [
    "AdversarialDiagnostics",
    "BagAttention",
    "Checkpoints",
    "Compile",
    "Densities",
    "ExponentialMovingAverage",
    "FinalValidation",
    "GANLab",
    "Pictures",
    "Predictions",
    "Progress",
    "Quality",
    "RandomState",
    "SetPictures",
    "Summary",
    "Trajectories",
    "Translations",
]
