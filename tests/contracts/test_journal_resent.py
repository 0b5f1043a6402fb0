from datetime import timedelta

from builders import draft, instance, run

from memtrace_core.query import MemoryQuery

ARC = instance()
EVERYTHING = 1 << 30


def test_a_durable_batch_with_a_gap_leaves_only_up_to_what_is_unconfirmed(journal_harness):
    """Of two memories sent again, the younger stays in the journal while one between them is unconfirmed there: no
    reader would be shown it otherwise, for the gateway only answers for what is older than all that is unconfirmed.
    """

    async def body():
        async with journal_harness() as held:
            journal = held.journal
            kept = await journal.append(ARC, [draft(content) for content in "abc"])
            await journal.mark_delivered(await journal.next_batch(ARC.org_id, 9, EVERYTHING), durable=False)
            found = await journal.next_delivered(ARC.org_id, timedelta(), 9)
            await journal.resend(found, [found.keys[0], found.keys[2]])
            again = await journal.next_batch(ARC.org_id, 9, EVERYTHING)
            assert [memory.content for memory in again.memories] == ["a", "c"]
            await journal.mark_delivered(again, durable=True)
            view = await journal.view(MemoryQuery(org_id=ARC.org_id))
            for memory in kept:
                assert memory in view.memories or view.horizon.admits(memory)

    run(body())
