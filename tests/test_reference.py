"""Reference log-probabilities: those of the starting model, computed once and kept by content."""

import sqlite3

import pytest
import torch
from tiny_training import make_model, make_pairs, plain_logp, prepared, table

from psychocounsel.errors import UserError
from psychocounsel.training.batches import Group, write_groups
from psychocounsel.training.reference import add_reference, fingerprint


class Counted:
    """A model ready for training that counts the packs it is called with."""

    def __init__(self, model, settings=None):
        self.ready, self.packs = prepared(model, settings), []
        self.ready.packed.register_forward_hook(lambda module, given_to, found: self.packs.append(given_to[0]))

    @property
    def replies(self):
        return sum(pack.replies for pack in self.packs)


@pytest.fixture
def files(tmp_path):
    """`files(name)`: train and dev groups written anew."""

    def make(name="first", count=9):
        return [write_groups(tmp_path / name / f"{split}.arrow", make_pairs(count if split == "train" else 3, seed))
                for seed, split in enumerate(("train", "dev"))]  # fmt: skip

    return make


def expected(groups, model):
    with torch.no_grad():
        return [plain_logp(model.eval(), group).tolist() for group in groups]


def references(files):
    return [[group.reference for group in file] for file in files]


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_the_reference_is_that_of_each_reply(files, budget):
    """Each reply's own, wherever it stands and however many were computed at once."""
    made, model = files(), make_model(seed=2)
    add_reference(prepared(model, table(token_budget=budget)), made)
    for file, found in zip(made, references(made), strict=True):
        for values, plain in zip(found, expected(file, make_model(seed=2)), strict=True):
            assert values == pytest.approx(plain, abs=1e-4)
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_parts_of_a_group_keep_the_reference_of_their_replies(files):
    train, _ = made = files()
    add_reference(prepared(make_model()), made)
    group = train[4]
    second = group.part("pairs", 1, 2)
    assert second.replies == [group.replies[0], group.replies[2]]
    assert second.reference == [group.reference[0], group.reference[2]]


def test_a_second_call_computes_nothing_and_gives_equal_values(files, tmp_path):
    cache, first, again = tmp_path / "runs" / "reference.sqlite", Counted(make_model()), Counted(make_model())
    add_reference(first.ready, made := files(), cache)
    assert first.replies == 36
    add_reference(again.ready, other := files("second"), cache)
    assert again.packs == [] and references(other) == references(made)
    trained = Counted(make_model(), table(lr=0.5, epochs=1.0, batch=1, token_budget=10))
    add_reference(trained.ready, files("third"), cache)
    assert trained.packs == []  # how it will be trained does not matter


def test_only_what_is_new_is_computed(files, tmp_path):
    cache = tmp_path / "reference.sqlite"
    add_reference(prepared(make_model()), made := files(count=5), cache)
    more = Counted(make_model())
    add_reference(more.ready, other := files("more", count=9), cache)
    assert more.replies == 4 * 3
    assert references(other)[0][:5] == references(made)[0] and references(other)[1] == references(made)[1]
    for values, plain in zip(references(other)[0], expected(other[0], make_model()), strict=True):
        assert values == pytest.approx(plain, abs=1e-4)


def change_one(model):
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[7, 11] += 1e-3


OTHERS = {
    "other weights": (lambda: make_model(seed=1), {}),
    "one number": (lambda: (model := make_model(), change_one(model))[0], {}),
    "half precision": (make_model, {"precision": "bf16"}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_model_finds_nothing_and_keeps_its_own(files, tmp_path, other):
    cache, (make, changes) = tmp_path / "reference.sqlite", OTHERS[other]
    add_reference(prepared(make_model()), made := files(), cache)
    counted = Counted(make(), table(**changes))
    add_reference(counted.ready, theirs := files("other"), cache)
    assert counted.replies == 36 and references(theirs) != references(made)
    for start, values in ((make_model(), references(made)), (make(), references(theirs))):
        again = Counted(start, table(**changes if values == references(theirs) else {}))
        add_reference(again.ready, both := files(f"again-{len(list(tmp_path.iterdir()))}"), cache)
        assert again.packs == [] and references(both) == values


def test_fingerprints_tell_models_apart_and_know_them_again():
    first = fingerprint(prepared(make_model()))
    assert fingerprint(prepared(make_model())) == first
    assert len({first, fingerprint(prepared(make_model(seed=1))), *(fingerprint(prepared(make())) for make, changes
                in OTHERS.values() if not changes)}) == 3  # fmt: skip


def test_where_prompt_ends_and_reply_begins_matters(tmp_path):
    cache, model = tmp_path / "reference.sqlite", make_model()
    one, two = Group("a", [7, 8, 9], [[10, 11]]), Group("a", [7, 8], [[9, 10, 11]])
    files = [write_groups(tmp_path / f"{name}.arrow", [group]) for name, group in (("one", one), ("two", two))]
    add_reference(prepared(model), files, cache)
    assert files[0][0].reference != files[1][0].reference
    for file in files:
        assert file[0].reference == pytest.approx(expected(file, make_model())[0], abs=1e-4)


def test_the_cache_holds_hashes_and_numbers_only(files, tmp_path):
    cache = tmp_path / "reference.sqlite"
    add_reference(prepared(make_model()), files(), cache)
    with sqlite3.connect(cache) as store:
        rows = store.execute("select * from reference").fetchall()
    store.close()
    assert len(rows) == 36 and all(len(key) == 16 and isinstance(value, float) for key, value in rows)


@pytest.mark.parametrize("damage", [lambda c: c.write_bytes(b"no database at all" * 500), lambda c: c.mkdir()])
def test_a_cache_that_cannot_be_used_is_named(files, tmp_path, damage):
    damage(cache := tmp_path / "reference.sqlite")
    with pytest.raises(UserError, match=r"reference\.sqlite: cannot keep reference log-prob.*, or remove the file"):
        add_reference(prepared(make_model()), files(), cache)
