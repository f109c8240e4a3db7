"""Groups of pairs: split and joined without loss, kept on disk, dealt out by hash in exact steps."""

import math
import tracemalloc
from itertools import islice, pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.errors import UserError
from psychocounsel.training.batches import (
    Entry,
    Group,
    GroupFile,
    Share,
    entries_of,
    items,
    pairs_of,
    steps,
    write_groups,
)

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=25)


def entries(counts):
    return [Entry(f"g{place}", count, 2 * count, 10) for place, count in enumerate(counts)]


def units(made):
    """(place, item) of every item of the steps, in order."""
    return [(share.place, item) for step in made for share in step for item in range(share.start, share.stop)]


@given(COUNTS, st.integers(1, 20), st.integers(0, 3), st.integers(1, 3), st.sampled_from(["pairs", "replies"]))
@settings(max_examples=80, deadline=None)
def test_every_pair_of_every_epoch_is_dealt_once_in_steps_of_the_exact_size(counts, size, seed, epochs, unit):
    made = list(steps(entries(counts), unit, size, seed, epochs))
    counts = counts if unit == "pairs" else [2 * count for count in counts]
    every = sorted((place, item) for place, count in enumerate(counts) for item in range(count))
    dealt = units(made)
    for epoch in range(epochs):
        assert sorted(dealt[epoch * len(every) : (epoch + 1) * len(every)]) == every
    assert len(dealt) == epochs * len(every)
    assert [items(step) for step in made[:-1]] == [size] * (len(made) - 1) and 1 <= items(made[-1]) <= size
    assert all(share.start < share.stop for step in made for share in step)


@given(COUNTS, st.integers(1, 20), st.integers(0, 3), st.floats(0.05, 3), st.integers(0, 40))
@settings(max_examples=80, deadline=None)
def test_a_resumed_run_sees_the_same_steps_in_the_same_order(counts, size, seed, epochs, done):
    whole = list(steps(entries(counts), "pairs", size, seed, epochs))
    assert list(islice(steps(entries(counts), "pairs", size, seed, epochs), done, None)) == whole[done:]


@given(COUNTS, st.integers(1, 20), st.integers(0, 3), st.randoms())
@settings(max_examples=50, deadline=None)
def test_steps_do_not_depend_on_the_order_of_the_input(counts, size, seed, shuffler):
    first = entries(counts)
    shuffled = list(first)
    shuffler.shuffle(shuffled)
    made, other = (
        [[(found[share.place].id, share.start, share.stop) for share in step]
         for step in steps(found, "pairs", size, seed, 2)]
        for found in (first, shuffled)
    )  # fmt: skip
    assert made == other


@given(COUNTS, st.integers(1, 20), st.floats(0.01, 4))
@settings(max_examples=80, deadline=None)
def test_a_part_of_an_epoch_is_that_share_of_its_pairs_and_the_start_of_the_whole(counts, size, epochs):
    part = units(steps(entries(counts), "pairs", size, 0, epochs))
    assert len(part) == math.ceil(sum(counts) * epochs - 1e-9)
    assert part == units(steps(entries(counts), "pairs", size, 0, 5))[: len(part)]


@given(COUNTS, st.integers(1, 20), st.integers(0, 12))
@settings(max_examples=50, deadline=None)
def test_most_steps_bound_the_plan_and_change_nothing_before(counts, size, most):
    whole = list(steps(entries(counts), "pairs", size, 0, 2))
    assert list(steps(entries(counts), "pairs", size, 0, 2, most)) == whole[:most]


def test_a_group_is_split_where_a_step_is_full_and_goes_on_in_the_next():
    assert list(steps(entries([7]), "pairs", 3, 0, 1)) == [[Share(0, 0, 3)], [Share(0, 3, 6)], [Share(0, 6, 7)]]
    over_the_epoch = list(steps(entries([4]), "pairs", 3, 0, 2))
    assert over_the_epoch == [[Share(0, 0, 3)], [Share(0, 3, 4), Share(0, 0, 2)], [Share(0, 2, 4)]]


def test_epochs_and_seeds_are_dealt_differently():
    deals = {}
    for seed in (0, 1):
        whole = units(steps(entries([1] * 20), "pairs", 4, seed, 2))
        deals[seed, 0], deals[seed, 1] = whole[:20], whole[20:]
    assert len({tuple(deal) for deal in deals.values()}) == 4
    assert all(sorted(deal) == sorted(deals[0, 0]) for deal in deals.values())


@pytest.mark.parametrize(("counts", "epochs"), [([], 3), ([3], 0)])
def test_without_pairs_or_epochs_there_is_no_step(counts, epochs):
    assert list(steps(entries(counts), "pairs", 4, 0, epochs)) == []


@st.composite
def groups(draw):
    number = draw(st.integers(1, 6))
    place = st.integers(0, number - 1)
    ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5)
    pairs = draw(st.lists(st.tuples(place, place), min_size=1, max_size=8))
    values = st.lists(st.floats(-5, 5), min_size=len(pairs), max_size=len(pairs))
    wide = draw(st.integers(0, 2))
    return Group(
        draw(st.text(max_size=8)),
        draw(ids),
        [draw(ids) for _ in range(number)],
        pairs,
        draw(values),
        [[draw(st.floats(-5, 5)) for _ in range(wide)] for _ in pairs] if wide else [],
        [draw(st.integers(0, 2**60)) for _ in pairs],
        draw(st.sampled_from([[], [float(i) for i in range(number)]])),
    )


def flat(group):
    """Everything that is said of each pair, without the numbers of replies."""
    rows = []
    for number, (chosen, rejected) in enumerate(group.pairs):
        rows.append((
            group.id, group.prompt, group.replies[chosen], group.replies[rejected], group.gaps[number],
            group.differences[number : number + 1], group.draws[number],
            [group.reference[place] for place in (chosen, rejected)] if group.reference else [],
        ))  # fmt: skip
    return rows


@given(groups(), st.data())
@settings(max_examples=100, deadline=None)
def test_parts_of_a_group_say_together_what_the_whole_says(group, data):
    cuts = sorted({0, len(group.pairs), *data.draw(st.lists(st.integers(0, len(group.pairs)), max_size=3))})
    parts = [group.part("pairs", start, stop) for start, stop in pairwise(cuts)]
    assert [row for part in parts for row in flat(part)] == flat(group)
    if len(parts) > 1:
        for part in parts:  # and each holds only the replies that it needs, each once
            assert {place for pair in part.pairs for place in pair} == set(range(len(part.replies)))
    cut = data.draw(st.integers(0, len(group.replies)))
    first, second = group.part("replies", 0, cut), group.part("replies", cut, len(group.replies))
    assert first.replies + second.replies == group.replies and first.reference + second.reference == group.reference
    assert group.part("pairs", 0, len(group.pairs)) is group


@given(st.lists(groups(), max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_file_of_groups_gives_back_what_was_written(tmp_path_factory, made):
    made = [Group(**{**group.__dict__, "reference": []}) for group in made]
    file = write_groups(tmp_path_factory.mktemp("groups") / "g.arrow", made)
    assert list(file) == made and len(file) == len(made) and file[:2] == made[:2]
    assert file.entries == entries_of(made) and pairs_of(file) == sum(len(group.pairs) for group in made)
    if made:
        assert file[-1] == made[-1]
        file.references[0] = [float(place) for place in range(len(made[0].replies))]
        assert file[0] == Group(**{**made[0].__dict__, "reference": file.references[0]})
    with pytest.raises(IndexError):
        file[len(made)]


def test_groups_lie_in_the_right_place_over_many_blocks(tmp_path):
    made = [Group(f"g{i}", [i], [[i, i + 1]] * (1 + i % 3), [(0, 0)] * (i % 4)) for i in range(300)]
    file = write_groups(tmp_path / "deep" / "g.arrow", iter(made))
    for place in (0, 63, 64, 65, 127, 128, 299, -1):
        assert file[place].id == made[place].id and file[place].prompt == made[place].prompt
    assert [entry.pairs for entry in file.entries] == [i % 4 for i in range(300)]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["g.arrow"]


def test_a_group_without_a_prompt_is_named_and_no_file_is_left(tmp_path):
    with pytest.raises(UserError, match="prompt s9: no tokens; the chat template gives nothing"):
        write_groups(tmp_path / "g.arrow", [Group("s8", [1], [[2]]), Group("s9", [], [[2]])])
    assert not (tmp_path / "g.arrow").exists()


def peak(work):
    """What `work` returns, and the most memory that Python held on the way, in MiB."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_a_file_of_twenty_thousand_groups_is_written_and_opened_without_holding_their_tokens(tmp_path):
    """As lists their 24 million token ids would take about 200 MiB; Python never holds a twentieth of it."""
    path = tmp_path / "g.arrow"
    write_groups(path, [Group("g", [1], [[2]])])  # what Arrow imports at its first use is not counted
    prompt, reply = list(range(400)), list(range(400))
    many = (Group(f"g{i}", prompt, [reply, reply], [(0, 1)], [1.0], [], [i]) for i in range(20_000))
    _, written = peak(lambda: write_groups(path, many))
    assert path.stat().st_size > 20_000 * 1200 * 4
    before = pa.total_allocated_bytes()
    file, opened = peak(lambda: GroupFile(path))
    assert pa.total_allocated_bytes() - before < 2**20  # nor does Arrow: the file is mapped
    (one, entry), read = peak(lambda: (file[15_000], file.entries[15_000]))
    assert len(file) == 20_000 and entry == Entry("g15000", 1, 2, 1200)
    assert one == Group("g15000", prompt, [reply, reply], [(0, 1)], [1.0], [], [15_000])
    assert written < 10 and opened < 10 and read < 1, (written, opened, read)
