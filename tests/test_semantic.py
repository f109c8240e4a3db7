"""The semantic pass, with a tiny encoder of random weights: its arithmetic, its limits and its errors."""

import sys

import pytest
import torch
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES

from psychocounsel.errors import UserError
from psychocounsel.speeches import semantic
from psychocounsel.speeches.dedup import Clusters, merged
from psychocounsel.speeches.semantic import embed, semantic_clusters

TEXTS = [*CLIENT_LINES, *GOOD_REPLIES, *PLAIN_REPLIES]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tokenizer):
    """A folder with a tiny BERT and the byte-level tokenizer of the tests."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(3)
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, hidden_size=32,
                        num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
                        max_position_embeddings=66)  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def components(count, pairs):
    return merged(Clusters(list(range(count)), {}), pairs).root


def test_an_embedding_is_the_mean_of_the_tokens_of_its_text_whatever_stands_beside_it(encoder):
    alone = torch.cat([embed([text], encoder) for text in TEXTS])
    together = embed(TEXTS, encoder, batch=5)
    assert torch.allclose(alone, together, atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(len(TEXTS)))


@pytest.mark.parametrize("block", [2, 5, 1000])
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_clusters_are_those_of_comparing_all_pairs_and_a_forest_spans_them(encoder, monkeypatch, block, quantile):
    monkeypatch.setattr(semantic, "BLOCK", block)
    vectors = embed(TEXTS, encoder)
    cosines = (vectors @ vectors.T).triu(1)
    join_at = float(cosines[cosines > 0].quantile(quantile)) + 1e-5
    pairs = semantic_clusters(TEXTS, encoder, join_at)
    wanted = [(i, j, 1.0) for i, j in torch.nonzero(cosines >= join_at).tolist()]
    assert wanted
    assert components(len(TEXTS), pairs) == components(len(TEXTS), wanted)
    assert len(pairs) == len(TEXTS) - len(set(components(len(TEXTS), wanted)))
    for first, second, cosine in pairs:
        assert first < second
        assert cosine == pytest.approx(float(cosines[first, second]), abs=1e-5)
        assert cosine >= join_at - 1e-6


def test_equal_texts_are_joined_and_many_of_them_need_one_pair_less_than_there_are(encoder):
    pairs = semantic_clusters([TEXTS[0]] * 40 + [TEXTS[1]], encoder, 0.9999)
    assert len(pairs) == 39
    assert components(41, pairs) == [0] * 40 + [40]


@pytest.mark.parametrize("texts", [[], ["alone"]])
def test_fewer_than_two_texts_load_no_encoder(texts):
    assert semantic_clusters(texts, "nowhere/at-all", 0.9) == []


def test_texts_without_words_and_texts_longer_than_the_encoder_reads_have_an_embedding(encoder):
    vectors = embed(["", " ", "word " * 5000, "🙂" * 300], encoder)
    assert bool(torch.isfinite(vectors).all())
    same = semantic_clusters(["word " * 500, "word " * 600], encoder, 0.99999)
    assert [pair[:2] for pair in same] == [(0, 1)], "both are read to the same last token"


def test_a_missing_or_broken_encoder_is_an_error_that_names_it(encoder, tmp_path):
    with pytest.raises(UserError, match=r"speeches\.encoder: nobody/nothing: no usable encoder there"):
        semantic_clusters(TEXTS, "nobody/nothing", 0.9)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no usable encoder there"):
        semantic_clusters(TEXTS, str(tmp_path), 0.9)


def test_embeddings_that_are_not_finite_are_an_error(encoder, tmp_path):
    from transformers import AutoTokenizer, BertModel

    model = BertModel.from_pretrained(encoder)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not finite"):
        semantic_clusters(TEXTS, str(tmp_path), 0.9)


def test_without_torch_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"torch is not installed; the semantic pass needs: pip install 'psycho"):
        semantic_clusters(TEXTS, "anything", 0.9)
