"""Sentence transformers as sources of features: texts in, sentences and tokens out."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NoReturn

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from xfer.sources.base import Layer
from xfer.sources.candidates import Ends
from xfer.sources.data import ExampleData, Examples, open_data
from xfer.sources.table import Features
from xfer.sources.torch import TorchSource
from xfer.sources.torch_fingerprint import fingerprint

# Texts computed together; they are of about the same length.
_AT_A_TIME = 32
# Attributes of the library's own modules that decide how texts are read, which is described apart,
# or that keep what was seen in a call.
_NOTES = {
    *("processor", "tokenizer", "input_formatter", "_prompt_length_mapping"),
    *("_method_signature_cache", "_chat_template_suffix_cache"),
}


class SentenceTransformerSource(TorchSource):
    """A sentence transformer, run where it is.

    Its own tokenizer reads the texts. It is never changed.

    Layer ``"sentence"`` is what ``model.encode`` gives, ``"tokens"`` the embedding of each token
    before the model combines them. The others have the dotted names of their modules; those that
    give tokens need a pooling, ``"masked_mean"`` or ``"first_token"``.

    Texts are read in large batches and computed in smaller ones of similar length, so that little
    time goes into padding.
    """

    batch_size = 512
    _whole_outputs = ("sentence", "tokens")
    _calls_follow_shapes = False

    def __init__(self, model: SentenceTransformer) -> None:
        if not isinstance(model, SentenceTransformer):
            raise TypeError(
                f"cannot open {type(model).__name__} as a sentence transformer: {model!r:.80}; a "
                "sentence_transformers.SentenceTransformer is needed"
            )
        super().__init__(model)
        self.inputs = _Tokenizer(model)
        self._inputs = list(self.inputs(["a"]))
        needed = [name for name in self._inputs if name in ("input_ids", "attention_mask")]
        self._needed = needed or self._inputs

    @classmethod
    def of_folder(cls, path: str | PathLike[str]) -> "SentenceTransformerSource":
        """Open a model saved to a folder, without downloads."""
        return cls(SentenceTransformer(str(path), local_files_only=True))

    def extract(self, data: Any, layer_names: Any, **options: Any) -> Features:
        """Run texts through the network; see `SourceModel.extract`."""
        data = open_data(data)
        if isinstance(data, ExampleData) and not isinstance(data.given, Mapping):
            _check_texts(data.raw(lambda examples: True))
        return super().extract(data, layer_names, **options)

    def _block_ends(self) -> Ends:
        # Its last modules only combine the tokens, which "sentence" has done.
        stages = {n: stage for n, stage in super()._block_ends().stages.items() if "." in n}
        return Ends({**stages, "sentence": len(stages)}, "sentence")

    def _describe(self) -> dict[str, Any]:
        tokenizer = {**self.inputs.identity(), "content": _content_of(self.module.tokenizer)}
        return fingerprint(self.module, self.cache_key, _is_note, tokenizer=tokenizer)

    def _compute(
        self, examples: Examples, layers: tuple[Layer, ...], poolings: Sequence[str]
    ) -> list[np.ndarray]:
        """Compute a batch of texts a few at a time, the longest first."""
        if isinstance(examples, dict):
            return super()._compute(examples, layers, poolings)
        _check_texts(examples)
        # If memory suffices for the first texts, it does for all.
        order = np.argsort([-len(text) for text in examples], kind="stable")
        parts = []
        for start in range(0, len(order), _AT_A_TIME):
            texts = [examples[index] for index in order[start : start + _AT_A_TIME]]
            parts.append(super()._compute(texts, layers, poolings))
        outputs = []
        for layer, values in zip(layers, zip(*parts)):
            if len({part.shape[1:] for part in values}) > 1:
                raise _needs_pooling(layer.name)
            output = np.empty((len(order), *values[0].shape[1:]), np.float32)
            output[order] = np.concatenate(values)
            outputs.append(output)
        return outputs

    def _arguments(self, tensors: dict[str, torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        return [dict(tensors)], {}

    def _outputs(self, found: Any) -> dict[str, Any]:
        sentence = found.get("sentence_embedding")
        if sentence is not None:
            sentence = sentence[..., : self.module.truncate_dim]
        return {"sentence": sentence, "tokens": found.get("token_embeddings")}

    def _check_output(self, name: str, tensor: torch.Tensor, pooling: str, mask: Any) -> None:
        super()._check_output(name, tensor, pooling, mask)
        # The padding depends on the other texts of a batch, even where all are equally long.
        has_tokens = mask is not None and tensor.ndim == 3 and tensor.shape[1] == mask.shape[1]
        if has_tokens and pooling == "flatten":
            raise _needs_pooling(name)


class _Tokenizer:
    """Makes a model's inputs of texts with the model's own tokenizer."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model

    def __call__(self, texts: list[Any]) -> dict[str, torch.Tensor]:
        features = self.model.preprocess(texts, prompt=self._prompt)
        return {
            # What is said of a batch holds for each of its examples.
            name: torch.full((len(texts),), value) if isinstance(value, int) else value
            for name, value in features.items()
            if isinstance(value, (int, torch.Tensor))
        }

    def identity(self) -> dict[str, Any]:
        """Return what the tokenizer is told; its own content is in the network's fingerprint."""
        kind, length = "the network's own tokenizer", self.model.max_seq_length
        return {"kind": kind, "prompt": self._prompt, "max_seq_length": length}

    def to_state(self) -> NoReturn:
        raise TypeError(
            "the tokenizer of a SentenceTransformer is saved with it and not with a repurposer: "
            "give the network to xfer.load again"
        )

    @property
    def _prompt(self) -> str | None:
        name = self.model.default_prompt_name
        return None if name is None else self.model.prompts.get(name)


def _is_note(module: torch.nn.Module, name: str) -> bool:
    if isinstance(module, SentenceTransformer):
        return name not in ("truncate_dim", "module_kwargs")
    return type(module).__module__.startswith("sentence_transformers.") and name in _NOTES


def _content_of(tokenizer: Any) -> Any:
    """Return what decides how texts are read, as far as it can be written down."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    try:
        whole = json.loads(backend.to_str())
    except Exception:  # whatever else it is, and steps in Python; described as any object is
        return tokenizer
    # How the last batch was padded and cut is noted there too.
    steps = {key: value for key, value in whole.items() if key not in ("padding", "truncation")}
    kind = type(tokenizer)
    own = getattr(tokenizer, "__dict__", {})
    patched = {name: own[name] for name in own if callable(getattr(kind, name, None))}
    sides = [getattr(tokenizer, side, None) for side in ("truncation_side", "padding_side")]
    return {"class": kind, "steps": json.dumps(steps), "sides": sides, "patched": patched}


def _check_texts(examples: Any) -> None:
    for index, text in enumerate(examples if hasattr(examples, "__len__") else ()):
        if not isinstance(text, str):
            raise TypeError(
                f"example {index} is {type(text).__name__}: {text!r:.80}; a sentence transformer "
                "takes texts (str), in a list"
            )


def _needs_pooling(name: str) -> ValueError:
    return ValueError(
        f"layer {name!r} gives tokens, more of them for longer texts; reduce them with pooling "
        "'masked_mean' or 'first_token'"
    )
