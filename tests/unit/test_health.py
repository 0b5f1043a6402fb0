import asyncio
import logging

from builders import ORG, OTHER_ORG, bound, in_memory, instance, run, settle

from memtrace_core import health as health_module
from memtrace_core.errors import ArcUnreachable


async def prepared():
    """Return services with two bound orgs, and the list of the orgs that are pinged."""
    services = await bound(in_memory(), instance(ORG), instance(OTHER_ORG))
    original, pinged = services.gateway.ping, []

    async def ping(one):
        pinged.append(one.org_id)
        await original(one)

    services.gateway.ping = ping
    return services, pinged


def test_a_binding_that_was_never_checked_is_checked_at_once():
    """The first answer knows every instance, and the second asks nobody."""

    async def body():
        services, pinged = await prepared()
        services.gateway.unreachable.add(instance(ORG).id)
        assert await services.health.reachable() == {ORG: False, OTHER_ORG: True}
        assert sorted(pinged) == [ORG, OTHER_ORG]
        assert await services.health.reachable() == {ORG: False, OTHER_ORG: True}
        assert len(pinged) == 2

    run(body())


def test_the_answer_is_that_of_the_last_check():
    """A change is seen with the next check and not before, in both directions."""

    async def body():
        services, _ = await prepared()
        await services.health.check_all()
        services.gateway.unreachable.add(instance(ORG).id)
        assert (await services.health.reachable())[ORG] is True
        await services.health.check_all()
        assert (await services.health.reachable())[ORG] is False
        services.gateway.unreachable.clear()
        await services.health.check_all()
        assert (await services.health.reachable())[ORG] is True

    run(body())


def test_no_binding_no_answer():
    """Without any instance there is nothing to tell."""

    async def body():
        services = in_memory()
        await services.health.check_all()
        assert await services.health.reachable() == {}

    run(body())


def test_a_changed_binding_is_checked_anew_and_a_removed_one_is_forgotten():
    """What was known of a former binding does not count for its successor."""

    async def body():
        services, pinged = await prepared()
        await services.health.check_all()
        pinged.clear()
        await services.repo.rebind_instance(instance(ORG, url="http://new.example"))
        await services.repo.unbind_instance(OTHER_ORG)
        services.gateway.unreachable.add(instance(ORG).id)
        assert await services.health.reachable() == {ORG: False}
        assert pinged == [ORG]

    run(body())


def test_a_binding_removed_while_another_is_checked_does_not_break_the_answer():
    """An answer under way survives a check that forgets an instance, and knows the one it waited for."""

    async def body():
        services, _ = await prepared()
        await services.health.check_all()
        gate = asyncio.Event()
        await services.repo.rebind_instance(instance(ORG, url="http://new.example"))

        async def ping(one):
            await gate.wait()

        services.gateway.ping = ping
        answer = asyncio.create_task(services.health.reachable())
        await settle()
        await services.repo.unbind_instance(OTHER_ORG)
        check = asyncio.create_task(services.health.check_all())
        await settle()
        gate.set()
        await check
        assert (await answer)[ORG] is True

    run(body())


def test_an_instance_is_pinged_once_at_a_time():
    """Who asks while a check is under way waits for that one."""

    async def body():
        services, _ = await prepared()
        await services.repo.unbind_instance(OTHER_ORG)
        gate, pinged = asyncio.Event(), []

        async def ping(one):
            pinged.append(one.org_id)
            await gate.wait()

        services.gateway.ping = ping
        answers = [asyncio.create_task(services.health.reachable()) for _ in range(3)]
        check = asyncio.create_task(services.health.check_all())
        await settle()
        gate.set()
        assert await asyncio.gather(*answers) == [{ORG: True}] * 3
        await check
        assert pinged == [ORG]

    run(body())


def test_a_new_binding_that_does_not_answer_soon_counts_as_unreachable(monkeypatch):
    """A hanging instance does not make the answer hang, and is known when its answer comes."""
    monkeypatch.setattr(health_module, "FIRST_CHECK_WITHIN", 0.0)

    async def body():
        services, _ = await prepared()
        gate = asyncio.Event()
        original = services.gateway.ping

        async def ping(one):
            if one.org_id == ORG:
                await gate.wait()
            await original(one)

        services.gateway.ping = ping
        assert (await services.health.reachable())[ORG] is False
        gate.set()
        await settle()
        assert await services.health.reachable() == {ORG: True, OTHER_ORG: True}

    run(body())


def test_an_instance_that_refuses_what_it_is_sent_is_not_reachable():
    """A ping is not enough: an instance that does not take our writes counts as unreachable until it does."""

    async def body():
        services, _ = await prepared()
        services.health.note_delivery(instance(ORG), refused=True)
        assert await services.health.reachable() == {ORG: False, OTHER_ORG: True}
        await services.health.check_all()
        assert await services.health.reachable() == {ORG: False, OTHER_ORG: True}
        services.health.note_delivery(instance(ORG), refused=False)
        assert await services.health.reachable() == {ORG: True, OTHER_ORG: True}

    run(body())


def test_checks_are_spread_over_the_interval():
    """With so many instances there is a ping every so-manieth part of the interval, each instance once."""

    async def body():
        services, pinged = await prepared()
        running = asyncio.create_task(services.health.run())
        await settle()
        assert pinged == []
        for expected in (1, 2, 3, 4):
            services.clock.advance(health_module.CHECK_EVERY / 2)
            await settle()
            assert len(pinged) == expected
        assert sorted(pinged[:2]) == sorted(pinged[2:]) == [ORG, OTHER_ORG]
        running.cancel()

    run(body())


def test_checking_begins_when_the_first_instance_is_bound():
    """Without any instance the round goes on, and finds one that is bound later."""

    async def body():
        services = in_memory()
        running = asyncio.create_task(services.health.run())
        await settle()
        await bound(services)
        pinged = []

        async def ping(one):
            pinged.append(one.org_id)

        services.gateway.ping = ping
        for _ in range(2):
            services.clock.advance(health_module.CHECK_EVERY)
            await settle()
        assert pinged == [ORG]
        running.cancel()

    run(body())


def test_stopping_ends_the_checks_under_way():
    """A ping that hangs is not waited for."""

    async def body():
        services, _ = await prepared()

        async def ping(one):
            await asyncio.Event().wait()

        services.gateway.ping = ping
        check = asyncio.create_task(services.health.check_all())
        await settle()
        services.health.stop()
        await settle()
        assert len(asyncio.all_tasks()) == 1
        assert check.cancelled()

    run(body())


def test_an_instance_that_is_gone_is_warned_about_once(caplog):
    """The log has one warning for one failure, and another after a recovery."""

    async def body():
        services, _ = await prepared()
        services.gateway.unreachable.add(instance(ORG).id)
        await services.health.check_all()
        await services.health.check_all()
        services.gateway.unreachable.clear()
        await services.health.check_all()
        services.gateway.unreachable.add(instance(ORG).id)
        await services.health.check_all()

    with caplog.at_level(logging.WARNING, "memtrace.health"):
        run(body())
    assert [record.org for record in caplog.records] == [ORG, ORG]


def test_a_bounded_number_of_instances_is_pinged_at_once():
    """However many orgs there are, only so many pings are under way, and every org is pinged in the end."""

    async def body():
        count = health_module.MOST_AT_ONCE * 3
        services = await bound(in_memory(), *(instance(f"org_{n}") for n in range(count)))
        under_way, most = 0, 0

        async def ping(one):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            if one.org_id == "org_7":
                raise ArcUnreachable("no")

        services.gateway.ping = ping
        answer = await services.health.reachable()
        assert most == health_module.MOST_AT_ONCE
        assert len(answer) == count
        assert [org_id for org_id, good in answer.items() if not good] == ["org_7"]

    run(body())


def test_a_key_that_is_sealed_anew_does_not_make_an_instance_unready(monkeypatch):
    """After a rotation of the master key each binding is another one; until its check the last verdict counts."""
    monkeypatch.setattr(health_module, "FIRST_CHECK_WITHIN", 0.01)

    async def body():
        services = await bound(in_memory())
        assert await services.health.reachable() == {ORG: True}
        never = asyncio.Event()

        async def ping(one):
            await never.wait()

        services.gateway.ping = ping
        await services.repo.reseal(lambda secret: b"sealed anew")
        assert await services.health.reachable() == {ORG: True}
        services.health.stop()

    run(body())
