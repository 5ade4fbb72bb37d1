"""Sentence transformers as sources of features: texts in, sentences and tokens out."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from xfer.sources.loaders import is_loader
from xfer.sources.torch import TorchSource


class SentenceTransformerSource(TorchSource):
    """A sentence transformer, run where it is.

    Parameters
    ----------
    model : sentence_transformers.SentenceTransformer
        Its own tokenizer reads the texts. It is never changed.

    Raises
    ------
    TypeError
        If ``model`` is something else.

    Notes
    -----
    Layer ``"sentence"`` is what ``model.encode`` gives, ``"tokens"`` the embedding of each token
    before they are joined to one. The others go by their modules' dotted names; those that put out
    tokens want a pooling, ``"masked_mean"`` or ``"first_token"``: the tokenizer tells the padding.

    Texts are read in large batches and computed in smaller ones of like lengths, so that little
    time goes into padding.
    """

    #: Texts to a batch; they are computed a few at a time.
    batch_size = 512
    _at_a_time = 32
    # A model card has a say in nothing; how the tokenizer is told, its own fingerprint tells.
    _settings = ("truncate_dim",)
    _whole_outputs = ("sentence", "tokens")
    _calls_follow_shapes = False

    def __init__(self, model):
        if not isinstance(model, SentenceTransformer):
            raise TypeError(
                f"cannot open {type(model).__name__} as a sentence transformer: {model!r:.80}; a "
                "sentence_transformers.SentenceTransformer is needed"
            )
        super().__init__(model, preprocess=_Tokenizer(model))
        self._tokenized = list(self.preprocess(["a"]))

    @classmethod
    def of_folder(cls, path):
        """Open a model that was saved to a folder; nothing is fetched from elsewhere.

        Parameters
        ----------
        path : str or path-like
            The folder, with ``modules.json``.

        Returns
        -------
        SentenceTransformerSource
        """
        return cls(SentenceTransformer(str(path), local_files_only=True))

    @property
    def input_names(self):
        """What the tokenizer makes of a text (list of str)."""
        return self._tokenized

    def extract(self, data, layer_names, **options):
        """Run texts through the network; see :meth:`xfer.sources.SourceModel.extract`.

        Parameters
        ----------
        data : list of str, dict of str to array, or what brings batches of them
            Texts; a dict holds what a tokenizer made of them, such as ``"input_ids"`` and
            ``"attention_mask"``.
        layer_names : str or list of str
        **options
            Those of every source.

        Returns
        -------
        Features

        Raises
        ------
        TypeError
            If an example is no text.
        ValueError
            As for every source; and if tokens are asked for without a pooling.
        """
        is_list = hasattr(data, "__len__") and not isinstance(data, (str, bytes, Mapping))
        if is_list and not is_loader(data):
            _check_texts(data)
        return super().extract(data, layer_names, **options)

    def start(self, examples, layers, poolings):
        """Compute one batch, or have the device begin to: what goes to :meth:`finish`.

        Parameters
        ----------
        examples : list of str, or dict of str to ndarray of shape (rows, ...)
        layers : tuple of Layer
        poolings : list of str
            One for each layer.

        Returns
        -------
        object
        """
        if isinstance(examples, dict):
            rows = len(next(iter(examples.values())))
            return [(np.arange(rows), super().start(examples, layers, poolings))], layers
        _check_texts(examples)
        # Longest first, so that memory that suffices in the beginning does to the end.
        by_length = np.argsort([-len(text) for text in examples], kind="stable")
        parts = []
        for first in range(0, len(examples), self._at_a_time):
            rows = by_length[first : first + self._at_a_time]
            some = [examples[row] for row in rows]
            parts.append((rows, super().start(some, layers, poolings)))
        return parts, layers

    def finish(self, started):
        """Wait for what :meth:`start` began, and put it in order.

        Parameters
        ----------
        started : object

        Returns
        -------
        list of ndarray of shape (rows, ...), float32
            One for each layer, pooled.
        """
        parts, layers = started
        number = sum(len(rows) for rows, _ in parts)
        outputs = [None] * len(layers)
        for rows, part in parts:
            for place, (layer, values) in enumerate(zip(layers, super().finish(part))):
                if outputs[place] is None:
                    outputs[place] = np.empty((number, *values.shape[1:]), np.float32)
                if outputs[place].shape[1:] != values.shape[1:]:
                    raise _needs_pooling(layer.name)
                outputs[place][rows] = values
        return outputs

    def fingerprint(self, layer_names):
        """Tell what decides the features of some layers, to know the same network again.

        Parameters
        ----------
        layer_names : list of str

        Returns
        -------
        dict
            As of any PyTorch network, and a checksum of the tokenizer and what it is told.
        """
        return {
            **super().fingerprint(layer_names),
            "tokenizer": self.preprocess.__xfer_digest__(),
        }

    def _inputs_of(self, layers):
        needed = [name for name in self._tokenized if name in ("input_ids", "attention_mask")]
        return needed or self._tokenized

    def _call(self, tensors):
        found = self._module(dict(tensors))
        sentence = found.get("sentence_embedding")
        if sentence is not None:
            sentence = sentence[..., : self._module.truncate_dim]
        return {"sentence": sentence, "tokens": found.get("token_embeddings")}

    def _check_pooling(self, name, tensor, pooling, mask):
        # How long the texts are padded depends on those beside them, even where it fits by chance.
        has_tokens = mask is not None and tensor.ndim == 3 and tensor.shape[1] == mask.shape[1]
        if has_tokens and pooling == "flatten":
            raise _needs_pooling(name)


class _Tokenizer:
    """What a model's own tokenizer makes of texts, and what it is known by."""

    def __init__(self, model):
        self.model = model
        self._kept = None, None

    def __call__(self, texts):
        prompt = self.model.prompts.get(self.model.default_prompt_name)
        features = self.model.preprocess(texts, prompt=prompt)
        return {
            # What is told of a batch is told of each of its examples.
            name: torch.full((len(texts),), value) if isinstance(value, int) else value
            for name, value in features.items()
            if isinstance(value, (int, torch.Tensor))
        }

    def __xfer_digest__(self):
        tokenizer = self.model.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        steps = [getattr(backend, step, None) for step in _STEPS]
        told = [
            self.model.max_seq_length,
            self.model.prompts.get(self.model.default_prompt_name),
            getattr(tokenizer, "truncation_side", None),
            getattr(tokenizer, "padding_side", None),
            len(tokenizer) if hasattr(tokenizer, "__len__") else None,
            *map(repr, steps),
        ]
        if self._kept[0] != told:
            self._kept = told, _digest(f"{told} {_vocabulary(backend)}")
        return self._kept[1]


_STEPS = ("normalizer", "pre_tokenizer", "post_processor")


def _vocabulary(backend):
    if hasattr(backend, "to_str"):
        # How the last batch was padded and cut is noted there too.
        whole = json.loads(backend.to_str())
        return {key: value for key, value in whole.items() if key not in ("padding", "truncation")}
    return sorted(backend.get_vocab().items()) if hasattr(backend, "get_vocab") else repr(backend)


def _digest(text):
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _check_texts(examples):
    for number, text in enumerate(examples):
        if not isinstance(text, str):
            raise TypeError(
                f"example {number} is {type(text).__name__}: {text!r:.80}; a sentence transformer "
                "takes texts (str), in a list"
            )


def _needs_pooling(name):
    return ValueError(
        f"layer {name!r} gives tokens, more of them for longer texts; reduce them with pooling "
        "'masked_mean' or 'first_token'"
    )
