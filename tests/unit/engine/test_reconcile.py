"""After a death of the daemon or of the keeper: what is running, what has ended, what is garbage."""

import time

from proa.schema.container import RestartPolicy
from proa.schema.keeper import Exit, ProcessState, Welcome


def welcome(*processes: ProcessState) -> Welcome:
    return Welcome(seq=1, version=1, pid=1, processes=processes, prepared=())


def process(id_: str, exit_: Exit | None = None) -> ProcessState:
    return ProcessState(id=id_, pid=42, started_at_ns=time.time_ns(), exit=exit_)


def ended(id_: str, code: int) -> Exit:
    return Exit(id=id_, code=code, reason="exit", oom=False, finished_at_ns=time.time_ns())


async def test_one_that_runs_is_adopted_with_its_network(world) -> None:
    id_ = await world.run("web")
    world.networks.connected.clear()
    world.keeper.welcome = welcome(process(id_))
    await world.restart()
    container = world.registry.lookup("web")
    assert container.state.status == "running"
    assert world.networks.connected.keys() == {id_}
    world.keeper.end(id_, 6)
    assert world.registry.lookup("web").state.exit_code == 6


async def test_one_that_ended_meanwhile_is_told_from_the_ledger(world) -> None:
    id_ = await world.run()
    world.keeper.welcome = welcome(process(id_, ended(id_, 9)))
    await world.restart()
    assert world.registry.get(id_).state.exit_code == 9
    assert world.keeper.acknowledged == [id_]
    assert world.actions()[-1] == "die"


async def test_a_start_that_was_not_stored_is_seen(world) -> None:
    id_ = await world.create()
    world.keeper.welcome = welcome(process(id_))
    await world.restart()
    assert world.registry.get(id_).state.status == "running"
    assert world.registry.get(id_).state.pid == 42


async def test_one_that_nobody_knows_of_has_ended_with_its_keeper(world) -> None:
    id_ = await world.run()
    world.keeper.welcome = welcome()
    await world.restart()
    await world.settle()
    state = world.registry.get(id_).state
    assert (state.status, state.exit_code, state.reason) == ("exited", 137, "engine_error")
    assert ("kill", f"{world.config.cgroup_root}/{id_}") in world.native.calls
    assert world.networks.connected == {}


async def test_rm_and_half_removed_ones_go_at_boot(world) -> None:
    first = await world.run(auto_remove=True)
    second = await world.create()
    world.registry.set_state(
        world.registry.get(second),
        __import__("proa.engine.state", fromlist=["removing"]).removing(
            second, world.registry.get(second).state
        ),
    )
    world.keeper.welcome = welcome(process(first, ended(first, 0)))
    await world.restart()
    await world.settle()
    assert len(world.registry) == 0


async def test_what_no_row_knows_is_garbage(world) -> None:
    kept = await world.create()
    (world.root / "containers" / ("f" * 64)).mkdir()
    world.snapshots.keys.add("f" * 64)
    world.native.groups = ["f" * 64]
    await world.restart()
    await world.settle()
    await world.engine._background.settle()
    assert world.snapshots.keys == {kept}
    assert ("remove", f"{world.config.cgroup_root}/{'f' * 64}") in world.native.calls


async def test_a_process_that_no_row_knows_is_killed(world) -> None:
    world.keeper.running["f" * 64] = 7
    world.keeper.welcome = welcome(process("f" * 64))
    await world.restart()
    await world.settle()
    assert world.keeper.signals == [("f" * 64, 9)]


async def test_policies_at_boot(world) -> None:
    always = await world.run("always", restart_policy=RestartPolicy(name="always"))
    unless = await world.run("unless", restart_policy=RestartPolicy(name="unless-stopped"))
    for id_ in (always, unless):
        await world.engine.containers.stop(id_, None, None)
    never_ran = await world.create(restart_policy=RestartPolicy(name="always"))
    await world.restart()
    await world.settle()
    assert world.registry.get(always).state.status == "running"
    assert world.registry.get(unless).state.status == "exited"
    assert world.registry.get(never_ran).state.status == "created"


async def test_an_exec_of_the_daemon_before_can_be_asked_for_its_code(world) -> None:
    id_ = await world.run()
    exec_ = ProcessState(id=id_, exec_id="e" * 64, pid=43, started_at_ns=time.time_ns())
    world.keeper.welcome = welcome(process(id_), exec_)
    await world.restart()
    assert (await world.engine.execs.inspect("e" * 64)).running
    world.keeper.end(id_, 5, exec_id="e" * 64)
    assert (await world.engine.execs.inspect("e" * 64)).exit_code == 5


async def test_a_lost_keeper_ends_its_containers_and_the_policy_starts_them_again(world) -> None:
    plain = await world.run()
    again = await world.run(restart_policy=RestartPolicy(name="always"))
    world.keeper.running.clear()
    world.engine.lost()
    await world.engine._recovery
    assert world.registry.get(plain).state.exit_code == 137
    container = world.registry.get(again)
    assert container.state.status == "restarting"
    container.restart_timer.cancel()
    world.engine._exits._restart_due(container)
    await world.settle()
    assert container.state.status == "running"
