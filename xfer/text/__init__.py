"""Text to word ids: the lexicon a network was trained with, and posts written in it."""

from xfer.text.corpus import Corpus
from xfer.text.vocabulary import Vocabulary

__all__ = ["Corpus", "Vocabulary"]
