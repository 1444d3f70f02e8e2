"""Pages in memory: each stays from when it is asked for to its last use, in the fewest slots."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distlth.data.load.slots import READ_AHEAD, plan_slots


@given(st.lists(st.sets(st.integers(0, 9)), max_size=12))
def test_a_page_has_its_slot_alone_while_it_is_needed(batches: list[set[int]]) -> None:
    plan = plan_slots(batches)
    held: list[set[int]] = [set() for _ in batches]
    for page in set().union(*batches):
        uses = [number for number, pages in enumerate(batches) if page in pages]
        asked = max(0, uses[0] - READ_AHEAD)
        assert [page in pages for pages in plan.asked] == [number == asked for number in range(len(batches))]
        assert [page in pages for pages in plan.needed] == [
            number == uses[0] for number in range(len(batches))
        ]
        for number in range(asked, uses[-1] + 1):
            assert plan.of_page[page] not in held[number]
            held[number].add(plan.of_page[page])
    assert plan.count == max(map(len, held), default=0)
    assert {*plan.of_page.values()} == {*range(plan.count)}
