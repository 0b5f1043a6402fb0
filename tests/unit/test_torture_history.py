"""The judgement over a tortured server's history, each violation made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from torture.checks import check
from torture.contents import sameness_of
from torture.history import Attempt, Fields, History, Known, Order, Reading, Stored, Table, summed_up

START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OURS, THEIRS = "org_ours", "org_theirs"


def memory(number: int, org: str = OURS, **changes: Any) -> Fields:
    """Return a memory as it is answered and read; its number makes its time, id and content."""
    made = {
        "memory_id": f"mem_{number:024x}",
        "time": (START + timedelta(microseconds=number)).isoformat(),
        "org_id": org,
        "agent_id": "ada",
        "memory_type": "episodic",
        "event_type": "general",
        "content": f"{org}.{number} happened",
        "dedup_key": f"generated {number}",
    }
    return made | changes


def sent(number: int, org: str = OURS, **changes: Any) -> Fields:
    """Return the body that makes such a memory."""
    return {"agent_id": "ada", "content": f"{org}.{number} happened"} | changes


def attempt(number: int, at: int, outcome: Stored | Known | None, org: str = OURS, **changes: Any) -> Attempt:
    """Return an attempt to store such a memory, at a moment when nothing else happened."""
    body = sent(number, org)
    made = Attempt(
        org=org, request=at, sent=body, sameness=sameness_of(body), began=2 * at, ended=2 * at + 1, outcome=outcome
    )
    return msgspec.structs.replace(made, **changes)


def stored(number: int, at: int | None = None, org: str = OURS, **changes: Any) -> Attempt:
    """Return an attempt that was answered with 201."""
    return attempt(number, number if at is None else at, Stored(memory(number, org)), org, **changes)


def known(number: int, at: int, memory_id: str | None = None) -> Attempt:
    """Return an attempt that was answered with 409."""
    return attempt(number, at, Known(memory_id or memory(number)["memory_id"]))


def reading(*memories: Fields, org: str = OURS, **changes: Any) -> Reading:
    """Return what an org reads; its follower met the same."""
    made = Reading(org=org, memories=memories, followed=[one["memory_id"] for one in memories])
    return msgspec.structs.replace(made, **changes)


def row(number: int, org: str = OURS, **changes: Any) -> Fields:
    """Return such a memory as it lies in Arc."""
    made = memory(number, org)
    return {**made, "time": (START - EPOCH) // timedelta(microseconds=1) + number, "session_id": None, **changes}


def order(at: int, *, answered: bool = True, **what: Any) -> Order:
    """Return an order of ours to forget, given at a moment when nothing else happened."""
    return Order(org=OURS, began=2 * at, ended=2 * at + 1, answered=answered, **what)


def found(
    attempts: list[Attempt], *readings: Reading, tables: tuple[Table, ...] = (), orders: tuple[Order, ...] = ()
) -> list[str]:
    """Return the kinds of the violations in a history."""
    history = History(attempts=attempts, readings=readings, tables=tables, orders=orders)
    return [violation.kind for violation in check(history)]


def test_a_history_in_which_all_was_kept_has_no_violations() -> None:
    """Acknowledged memories, justified 409s, unanswered memories that are there or not: all of that is in order."""
    attempts = [stored(1), known(1, 2), attempt(3, 3, None), attempt(4, 4, None), known(4, 5), stored(6)]
    table = Table(orgs=frozenset({OURS}), rows=[row(1), row(1), row(4), row(6)])
    assert found(attempts, reading(memory(1), memory(4), memory(6)), tables=(table,)) == []


def test_an_acknowledged_memory_that_is_not_read_is_lost() -> None:
    """What was answered with 201 must be there."""
    assert found([stored(1), stored(2)], reading(memory(1))) == ["lost"]


def test_a_memory_that_is_read_twice_is_doubled() -> None:
    """One id stands in one place."""
    twice = reading(memory(1), memory(1), followed=[memory(1)["memory_id"]])
    assert found([stored(1)], twice) == ["doubled"]


def test_a_second_copy_under_another_id_is_doubled() -> None:
    """A resend must not become a memory of its own."""
    copy = memory(2, content=memory(1)["content"])
    assert found([stored(1)], reading(memory(1), copy)) == ["doubled"]


def test_two_acknowledgements_of_the_same_memory_are_doubled() -> None:
    """Of identical posts only one is answered with 201."""
    second = attempt(1, 2, Stored(memory(2, content=memory(1)["content"])))
    assert found([stored(1), second], reading(memory(1), second.outcome.memory)) == ["doubled"]


def test_a_retry_that_is_stored_beside_its_unanswered_first_attempt_is_doubled() -> None:
    """What was stored without an answer is a duplicate when it is sent again."""
    silent = memory(1, content=memory(2)["content"])
    assert found([attempt(2, 1, None), stored(2)], reading(silent, memory(2))) == ["doubled"]


def test_an_id_that_is_answered_to_two_requests_is_doubled() -> None:
    """Ids are unique."""
    same_id = memory(2, memory_id=memory(1)["memory_id"])
    kinds = found([attempt(2, 2, Stored(same_id)), stored(1, 3)], reading(memory(1)))
    assert "doubled" in kinds


@pytest.mark.parametrize(
    "change", [{"content": "else"}, {"tags": ["more"]}, {"agent_id": "bob"}, {"importance": 1.0}]
)
def test_a_memory_that_is_not_read_as_it_was_answered_is_altered(change: Fields) -> None:
    """Every field is kept."""
    assert found([stored(1)], reading(memory(1, **change))) == ["altered"]


def test_a_memory_that_is_not_answered_as_it_was_sent_is_altered() -> None:
    """A 201 holds what was sent."""
    other = memory(1, session_id="s9")
    assert found([attempt(1, 1, Stored(other))], reading(other)) == ["altered"]


def test_an_unanswered_memory_that_is_not_kept_as_it_was_sent_is_altered() -> None:
    """Without an answer, too, a memory is stored as it was sent or not at all."""
    assert found([attempt(1, 1, None)], reading(memory(1, event_type="error"))) == ["altered"]


def test_a_memory_that_nobody_sent_is_unsent() -> None:
    """Nothing comes from nowhere."""
    assert found([stored(1)], reading(memory(1), memory(2))) == ["unsent"]


@pytest.mark.parametrize("org_id", [OURS, THEIRS])
def test_a_memory_of_another_org_is_foreign(org_id: str) -> None:
    """An org reads its own memories alone, under whatever name another's may come."""
    theirs = memory(2, THEIRS)
    kinds = found(
        [stored(1), stored(2, org=THEIRS)],
        reading(memory(1), theirs | {"org_id": org_id}),
        reading(theirs, org=THEIRS),
    )
    assert kinds == ["foreign"]


def test_a_follower_that_met_another_orgs_memory_met_a_foreign_one() -> None:
    """What a follower should never have met need not be there in the end to be found."""
    met = [memory(number)["memory_id"] for number in (1, 2)]
    readings = reading(memory(1), followed=met), reading(memory(2, THEIRS), org=THEIRS)
    assert found([stored(1), stored(2, org=THEIRS)], *readings) == ["foreign"]


def test_what_was_acknowledged_first_has_the_lower_time() -> None:
    """A request that begins after another's answer gets a later time, whosever the two are."""
    late, early = stored(1, 5), stored(2, 4, org=THEIRS)
    readings = reading(memory(1)), reading(memory(2, THEIRS), org=THEIRS)
    assert found([early, late], *readings) == ["out of order"]


def test_requests_that_overlap_may_be_stored_in_either_order() -> None:
    """Order is promised only where one answer came before the other request."""
    overlapping = stored(1, 5, began=8)
    assert found([stored(2, 4), overlapping], reading(memory(1), memory(2))) == []


def test_the_members_of_a_batch_keep_their_order() -> None:
    """A batch is stored in the order in which it was sent."""
    assert found([stored(2, 7), stored(1, 7)], reading(memory(1), memory(2))) == ["out of order"]


def test_a_reading_that_goes_back_is_out_of_order() -> None:
    """Pages go strictly forward."""
    assert found([stored(1), stored(2)], reading(memory(2), memory(1))) == ["out of order"]


def test_a_time_that_two_memories_share_is_out_of_order() -> None:
    """Times are strictly increasing over the whole journal."""
    same_time = memory(2, THEIRS, time=memory(1)["time"])
    theirs = attempt(2, 2, Stored(same_time), THEIRS, began=0)
    assert found([stored(1), theirs], reading(memory(1)), reading(same_time, org=THEIRS)) == ["out of order"]


@pytest.mark.parametrize(
    "history",
    [
        [stored(1), known(2, 2, memory(1)["memory_id"])],  # the id of another memory
        [known(1, 1), stored(1, 2)],  # before anybody had sent it
        [stored(1), known(1, 2, "mem_" + "f" * 24)],  # an id of nothing
    ],
)
def test_a_409_that_names_no_earlier_memory_with_the_same_content_is_unjustified(history: list[Attempt]) -> None:
    """A duplicate is a duplicate of something: a memory of the same content, sent before, under the id it has."""
    assert found(history, reading(memory(1))) == ["unjustified"]


def test_an_unanswered_batch_that_is_stored_in_part_is_torn() -> None:
    """A batch is stored as a whole or not at all."""
    members = [attempt(1, 1, None), attempt(2, 1, None)]
    assert found(members, reading(memory(1))) == ["torn"]
    assert found(members, reading(memory(1), memory(2))) == []
    assert found(members, reading()) == []


def test_a_batch_of_which_a_retry_stores_only_a_part_is_torn() -> None:
    """The answers to a retry tell what became of the batch: all are duplicates, or none is."""
    members = [attempt(1, 1, None), attempt(2, 1, None)]
    assert found([*members, known(1, 2), stored(2, 3)], reading(memory(1), memory(2))) == ["torn"]
    assert found([*members, stored(1, 2), stored(2, 3)], reading(memory(1), memory(2))) == []


def test_a_member_that_was_sent_elsewhere_before_does_not_tear_a_batch() -> None:
    """A member of a lost batch that had been stored before is there, whatever became of the batch."""
    assert found([stored(1), attempt(1, 2, None), attempt(2, 2, None)], reading(memory(1))) == []


def test_a_follower_that_misses_a_memory_was_made_to_skip_it() -> None:
    """Who follows a cursor meets everything."""
    assert found([stored(1), stored(2)], reading(memory(1), memory(2), followed=[memory(2)["memory_id"]])) == [
        "skipped"
    ]


def test_what_a_follower_met_must_still_be_there() -> None:
    """A memory that was seen once is there for ever, acknowledged or not."""
    ids = [memory(number)["memory_id"] for number in (1, 2)]
    assert found([stored(1), attempt(2, 2, None)], reading(memory(1), followed=ids)) == ["lost"]


def test_a_follower_meets_nothing_twice_and_everything_in_order() -> None:
    """A follower's way is the order of the memories."""
    one, two = (memory(number)["memory_id"] for number in (1, 2))
    assert found([stored(1), stored(2)], reading(memory(1), memory(2), followed=[one, two, two])) == ["doubled"]
    assert found([stored(1), stored(2)], reading(memory(1), memory(2), followed=[two, one])) == ["out of order"]


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([], "lost"),
        ([row(1), row(2)], "unsent"),
        ([row(1, content="else")], "altered"),
        ([row(1, time=7)], "altered"),
        ([row(1), row(1, tags_csv="more")], "altered"),
        ([row(1), row(2, THEIRS)], "foreign"),
    ],
)
def test_arc_holds_what_is_read_and_nothing_else(rows: list[Fields], kind: str) -> None:
    """Once all is confirmed, reading and Arc agree."""
    table = Table(orgs=frozenset({OURS}), rows=rows)
    assert found([stored(1)], reading(memory(1)), tables=(table,)) == [kind]


def test_what_is_set_aside_need_not_lie_in_arc() -> None:
    """A memory that Arc refuses stays readable from the journal alone."""
    aside = reading(memory(1), set_aside=frozenset({memory(1)["memory_id"]}))
    assert found([stored(1)], aside, tables=(Table(orgs=frozenset({OURS}), rows=[]),)) == []


BY_ID, BY_AGENT, BY_SESSION = {"memory_id": memory(1)["memory_id"]}, {"agent": "ada"}, {"session": "s1"}


@pytest.mark.parametrize("what", [BY_ID, BY_AGENT])
def test_a_forgotten_memory_that_is_read_is_resurrected(what: Fields) -> None:
    """What was acknowledged before an order that was answered must not be there; without an answer it may be."""
    assert found([stored(1)], reading(memory(1)), orders=(order(2, **what),)) == ["resurrected"]
    assert found([stored(1)], reading(memory(1)), orders=(order(2, answered=False, **what),)) == []


@pytest.mark.parametrize("what", [BY_ID, BY_AGENT])
@pytest.mark.parametrize("answered", [True, False])
def test_a_forgotten_memory_is_not_lost(what: Fields, answered: bool) -> None:
    """It may be missing as soon as an order was given, and its follower may have met it."""
    met = reading(followed=[memory(1)["memory_id"]])
    table = Table(orgs=frozenset({OURS}), rows=[])
    assert found([stored(1)], met, tables=(table,), orders=(order(2, answered=answered, **what),)) == []


@pytest.mark.parametrize(
    "what", [{"memory_id": memory(2)["memory_id"]}, {"agent": "bob"}, BY_SESSION, {**BY_AGENT, **BY_SESSION}]
)
def test_a_memory_that_an_order_does_not_name_is_overforgotten(what: Fields) -> None:
    """An order takes what it names and nothing else."""
    assert found([stored(1)], reading(), orders=(order(2, **what),)) == ["overforgotten"]


def test_what_is_stored_after_an_order_stays() -> None:
    """An order that was answered before a memory was sent is no excuse; one that was under way is."""
    assert found([stored(2)], reading(), orders=(order(1, **BY_AGENT),)) == ["lost"]
    under_way = Order(org=OURS, began=0, ended=9, answered=True, **BY_AGENT)
    assert found([stored(2)], reading(), orders=(under_way,)) == []
    assert found([stored(2)], reading(memory(2)), orders=(under_way,)) == []


def test_another_orgs_order_is_no_excuse() -> None:
    """Each org forgets its own."""
    theirs = Order(org=THEIRS, began=4, ended=5, answered=True, **BY_AGENT)
    assert found([stored(1)], reading(), orders=(theirs,)) == ["lost"]


def test_a_memory_that_was_stored_without_an_answer_and_forgotten_is_resurrected_as_well() -> None:
    """Whichever attempt has stored it, it was before the order."""
    assert found([attempt(1, 1, None)], reading(memory(1)), orders=(order(2, **BY_AGENT),)) == ["resurrected"]


def test_what_is_forgotten_must_not_lie_in_arc() -> None:
    """Readers may be kept from seeing it, and yet it is to be deleted."""
    table = Table(orgs=frozenset({OURS}), rows=[row(1)])
    assert found([stored(1)], reading(), tables=(table,), orders=(order(2, **BY_ID),)) == ["resurrected"]


def test_what_arc_has_lost_beside_an_order_is_overforgotten() -> None:
    """A deletion that takes a neighbour is seen in Arc."""
    table = Table(orgs=frozenset({OURS}), rows=[row(1)])
    kinds = found(
        [stored(1), stored(2), stored(3)],
        reading(memory(1), memory(2)),
        tables=(table,),
        orders=(order(4, memory_id=memory(3)["memory_id"]),),
    )
    assert kinds == ["overforgotten"]


def test_the_same_may_be_stored_again_after_an_order_and_not_before() -> None:
    """Forgetting a memory frees its claim; what was stored twice before that is doubled all the same."""
    again = attempt(1, 4, Stored(memory(4, content=memory(1)["content"])))
    copy = again.outcome.memory
    assert found([stored(1), again], reading(copy), orders=(order(2, **BY_ID),)) == []
    assert found([stored(1), again], reading(copy), orders=(order(5, **BY_ID),)) == ["doubled"]


def test_a_copy_without_an_answer_may_be_of_any_attempt_without_one() -> None:
    """Of several attempts the last may have stored it, and the first may have found what was forgotten since."""
    copy = memory(5, content=memory(1)["content"])
    unanswered = [attempt(1, 2, None), attempt(1, 4, None)]
    for first in (stored(1), attempt(1, 1, None)):
        assert found([first, *unanswered], reading(copy), orders=(order(3, agent="ada"),)) == []
    too_late = order(5, agent="ada", answered=False)
    assert found([stored(1), *unanswered], reading(memory(1), copy), orders=(too_late,)) == ["doubled"]


def test_an_attempt_without_an_answer_has_stored_one_memory_at_most() -> None:
    """However many orders may have freed a claim between its copies."""
    unanswered = [attempt(1, 2, None), attempt(1, 4, None)]
    copies = [memory(number, content=memory(1)["content"]) for number in (2, 4, 5)]
    between = order(3, agent="ada", answered=False)
    assert found(unanswered, reading(*copies[:2]), orders=(between,)) == []
    assert found(unanswered, reading(*copies), orders=(between,)) == ["doubled"]
    meanwhile = msgspec.structs.replace(between, began=4)
    assert found(unanswered[:1], reading(*copies[:2]), orders=(meanwhile,)) == ["doubled", "doubled"]


def test_a_copy_of_what_is_kept_may_be_stored_beside_an_order_that_only_arc_can_tell_apart() -> None:
    """An order for a session frees claims until Arc has named its memories; the embedded store knows them."""
    again = attempt(1, 4, Stored(memory(4, content=memory(1)["content"])))
    both = reading(memory(1), again.outcome.memory)
    embedded = msgspec.structs.replace(both, over_arc=False)
    assert found([stored(1), again], both, orders=(order(2, **BY_SESSION),)) == []
    assert found([stored(1), again], both, orders=(order(2, agent="bob"),)) == ["doubled"]
    assert found([stored(1), again], embedded, orders=(order(2, **BY_SESSION),)) == ["doubled"]


def test_a_duplicate_of_what_is_forgotten_is_unjustified() -> None:
    """The claim ends with the memory."""
    assert found([stored(1), known(1, 3)], reading(), orders=(order(2, **BY_ID),)) == ["unjustified"]
    assert found([stored(1), known(1, 2)], reading(), orders=(order(3, **BY_ID),)) == []


def test_a_batch_of_which_an_order_may_have_taken_a_part_is_not_torn() -> None:
    """What is missing may have been forgotten."""
    members = [attempt(1, 1, None), attempt(2, 1, None, sent=sent(2, agent_id="bob"))]
    bobs = memory(2, agent_id="bob")
    assert found(members, reading(bobs), orders=(order(2, **BY_AGENT),)) == []
    assert found(members, reading(bobs)) == ["torn"]


def test_a_batch_whose_stored_twin_may_have_been_forgotten_is_not_torn() -> None:
    """Of two members that dedup takes for the same the other one was never stored, though no order is about it."""
    twin = attempt(2, 1, None, sent=sent(2, agent_id="bob"))
    members = [attempt(1, 1, None), attempt(2, 1, None), twin]
    assert found(members, reading(memory(1)), orders=(order(2, agent="bob"),)) == []
    assert found(members[:2], reading(memory(1)), orders=(order(2, agent="bob"),)) == ["torn"]


def test_the_line_counts_answers_and_violations() -> None:
    """One line tells the seed, the cycles, what was answered, and how much of each kind went wrong."""
    attempts = [stored(1), stored(2), known(1, 3), attempt(4, 4, None)]
    violations = check(History(attempts=attempts, readings=[reading(memory(1))]))
    line = summed_up(7, 3, attempts, violations, [order(5, **BY_ID), order(6, answered=False, **BY_ID)])
    assert line.startswith(
        "seed 7, cycles 3, acknowledged 2, duplicates answered 1, unanswered 1: lost 1, doubled 0"
    )
    assert line.endswith("orders to forget answered 1 of 2")
