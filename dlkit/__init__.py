"""dlkit: every method of a modern deep-learning course, each one a LightningModule.

Names are imported when they are first used, so `import dlkit` costs nothing and needs no optional package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlkit.adversarial.gan import GAN
    from dlkit.adversarial.method import AdversarialMethod
    from dlkit.adversarial.optimal_critics import OptimalCritics
    from dlkit.adversarial.wgan import WGAN
    from dlkit.autoencoders.autoencoder import Autoencoder
    from dlkit.autoencoders.denoising import DenoisingAutoencoder
    from dlkit.autoencoders.vae import VAE
    from dlkit.batches import Draws, Examples, Graphs, Particles, SentencePairs, Sequences, Sets, TaggedWords, TextWindows
    from dlkit.classifiers.classifier import Classifier
    from dlkit.errors import CollapseError, NonFiniteError
    from dlkit.flows.flow import Flow
    from dlkit.flows.lattice import LatticeFlow
    from dlkit.graphs.interaction import InteractionNetwork
    from dlkit.graphs.mpnn import MPNN
    from dlkit.loading import load
    from dlkit.method import Method
    from dlkit.sequences.classifier import SequenceClassifier
    from dlkit.sequences.language_model import LanguageModel
    from dlkit.sequences.tagger import SequenceTagger
    from dlkit.sequences.translator import Translator
    from dlkit.sets.aggregate_sum import AggregateSum
    from dlkit.sets.attention_mil import AttentionMIL
    from dlkit.sets.deep_sets import DeepSets
    from dlkit.sets.set_rnn import SetRNN

__version__ = "0.1.0"

# Public name -> the module that defines it. The command line reads this table to find a method without importing torch.
EXPORTS = {
    "Method": "dlkit.method",
    "NonFiniteError": "dlkit.errors",
    "CollapseError": "dlkit.errors",
    "load": "dlkit.loading",
    "Examples": "dlkit.batches",
    "Draws": "dlkit.batches",
    "Sequences": "dlkit.batches",
    "TaggedWords": "dlkit.batches",
    "TextWindows": "dlkit.batches",
    "SentencePairs": "dlkit.batches",
    "Sets": "dlkit.batches",
    "Graphs": "dlkit.batches",
    "Particles": "dlkit.batches",
    "Classifier": "dlkit.classifiers.classifier",
    "Autoencoder": "dlkit.autoencoders.autoencoder",
    "DenoisingAutoencoder": "dlkit.autoencoders.denoising",
    "VAE": "dlkit.autoencoders.vae",
    "AdversarialMethod": "dlkit.adversarial.method",
    "GAN": "dlkit.adversarial.gan",
    "WGAN": "dlkit.adversarial.wgan",
    "OptimalCritics": "dlkit.adversarial.optimal_critics",
    "SequenceClassifier": "dlkit.sequences.classifier",
    "SequenceTagger": "dlkit.sequences.tagger",
    "LanguageModel": "dlkit.sequences.language_model",
    "Translator": "dlkit.sequences.translator",
    "Flow": "dlkit.flows.flow",
    "LatticeFlow": "dlkit.flows.lattice",
    "MPNN": "dlkit.graphs.mpnn",
    "InteractionNetwork": "dlkit.graphs.interaction",
    "AggregateSum": "dlkit.sets.aggregate_sum",
    "DeepSets": "dlkit.sets.deep_sets",
    "SetRNN": "dlkit.sets.set_rnn",
    "AttentionMIL": "dlkit.sets.attention_mil",
}

__all__ = [
    "GAN",
    "MPNN",
    "VAE",
    "WGAN",
    "AdversarialMethod",
    "AggregateSum",
    "AttentionMIL",
    "Autoencoder",
    "Classifier",
    "CollapseError",
    "DeepSets",
    "DenoisingAutoencoder",
    "Draws",
    "Examples",
    "Flow",
    "Graphs",
    "InteractionNetwork",
    "LanguageModel",
    "LatticeFlow",
    "Method",
    "NonFiniteError",
    "OptimalCritics",
    "Particles",
    "SentencePairs",
    "SequenceClassifier",
    "SequenceTagger",
    "Sequences",
    "SetRNN",
    "Sets",
    "TaggedWords",
    "TextWindows",
    "Translator",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in EXPORTS:
        return getattr(importlib.import_module(EXPORTS[name]), name)
    raise AttributeError(f"module 'dlkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
