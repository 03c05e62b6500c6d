"""Containers from create to removal, over fakes: states, events, waits, Docker's words."""

import asyncio
from functools import partial

import pytest

from proa.engine.state import State
from proa.engine.wait import Departed
from proa.errors import Conflict, InvalidParameter, NotFound, NotModified, StartFailed, System
from proa.schema.container import HostConfig, LogConfig, RestartPolicy


async def status(world, ref: str) -> str:
    return (await world.engine.containers.inspect(ref, size=False)).state.status


async def test_a_run_from_create_to_removal(world) -> None:
    id_ = await world.create("web", labels={"tier": "front"})
    assert await status(world, "web") == "created"
    wait = await world.engine.containers.wait("web", "next-exit")
    await world.engine.containers.start("web", "")
    shown = await world.engine.containers.inspect(id_[:12], size=False)
    assert shown.state.running
    assert shown.state.pid
    assert shown.network_settings.ip_address == "10.0.0.2"
    world.keeper.end(id_, 3)
    assert (await wait).status_code == 3
    await world.settle()
    assert await status(world, "web") == "exited"
    assert world.networks.connected == {}
    await world.engine.containers.remove("web", volumes=False, force=False, link=False)
    await world.settle()
    with pytest.raises(NotFound, match="No such container: web"):
        world.registry.lookup("web")
    assert world.actions() == ["create", "start", "die", "destroy"]
    assert world.actions("network") == ["connect", "disconnect"]
    assert world.snapshots.keys == set()
    assert world.images.holders == {}
    assert not list((world.root / "containers").iterdir())
    assert world.metadata.query("SELECT * FROM container") == []
    assert world.metadata.query("SELECT * FROM container_state") == []


async def test_events_carry_labels_image_name_and_the_exit_code(world) -> None:
    id_ = await world.run("web", labels={"tier": "front"})
    world.keeper.end(id_, 3)
    die = next(m for _, m in world.events._recent if m.action == "die")
    assert die.actor.id == id_
    assert die.actor.attributes == {
        "tier": "front",
        "image": "busybox",
        "name": "web",
        "execDuration": "0",
        "exitCode": "3",
    }


async def test_the_exit_is_acknowledged_only_once_it_is_stored(world) -> None:
    id_ = await world.run()
    world.keeper.exit_at_once = None
    stored: list[int] = []
    acknowledge = world.keeper.acknowledge

    def note(of: str, exec_id: str | None = None) -> None:
        stored.append(len(world.metadata.query("SELECT 1 FROM container_state WHERE id = ?", (of,))))
        stored.append(world.registry.get(of).state.exit_code)
        acknowledge(of, exec_id)

    world.keeper.acknowledge = note
    world.keeper.end(id_, 5)
    assert stored == [1, 5]


async def test_an_exit_right_behind_the_start_is_not_lost(world) -> None:
    world.keeper.exit_at_once = 0
    id_ = await world.create()
    wait = await world.engine.containers.wait(id_, "next-exit")
    await world.engine.containers.start(id_, "")
    assert (await wait).status_code == 0
    assert await status(world, id_) == "exited"


async def test_a_second_start_changes_nothing(world) -> None:
    id_ = await world.run()
    with pytest.raises(NotModified):
        await world.engine.containers.start(id_, "")
    assert len(world.keeper.plans) == 1


async def test_a_start_that_fails_leaves_the_error_and_no_network(world) -> None:
    id_ = await world.create()
    world.keeper.fail = StartFailed("exec: nosuch", 127)
    with pytest.raises(StartFailed):
        await world.engine.containers.start(id_, "")
    shown = await world.engine.containers.inspect(id_, size=False)
    assert (shown.state.status, shown.state.exit_code, shown.state.error) == ("created", 127, "exec: nosuch")
    assert world.networks.connected == {}
    world.keeper.fail = None
    await world.engine.containers.start(id_, "")
    assert (await world.engine.containers.inspect(id_, size=False)).state.error == ""


async def test_a_start_that_fails_with_rm_removes_the_container(world) -> None:
    id_ = await world.create(auto_remove=True)
    removed = await world.engine.containers.wait(id_, "removed")
    world.keeper.fail = StartFailed("exec: nosuch", 127)
    with pytest.raises(StartFailed):
        await world.engine.containers.start(id_, "")
    assert (await removed).status_code == 127
    assert len(world.registry) == 0


async def test_rm_removes_after_the_exit_and_the_wait_has_the_code(world) -> None:
    id_ = await world.create(auto_remove=True, volumes={"/data": {}})
    removed = await world.engine.containers.wait(id_, "removed")
    await world.engine.containers.start(id_, "")
    assert len(world.volumes.names) == 1
    world.keeper.end(id_, 7)
    assert (await removed).status_code == 7
    assert world.registry.get(id_) is None
    assert world.volumes.names == set()
    assert world.actions()[-2:] == ["die", "destroy"]


async def test_stop_sends_the_stop_signal_and_tells_in_docker_s_order(world) -> None:
    id_ = await world.run()
    await world.engine.containers.stop(id_, None, None)
    assert world.keeper.signals == [(id_, 15)]
    assert world.actions() == ["create", "start", "kill", "die", "stop"]
    with pytest.raises(NotModified):
        await world.engine.containers.stop(id_, None, None)


async def test_stop_kills_one_that_does_not_listen(world) -> None:
    world.keeper.deaf = True
    id_ = await world.run(stop_signal="SIGINT")
    await world.engine.containers.stop(id_, None, 0)
    assert world.keeper.signals == [(id_, 2), (id_, 9)]
    assert (await world.engine.containers.inspect(id_, size=False)).state.exit_code == 137


async def test_kill_goes_through_while_a_stop_waits(world) -> None:
    world.keeper.deaf = True
    id_ = await world.run()
    stop = asyncio.ensure_future(world.engine.containers.stop(id_, None, -1))
    await world.keeper.signalled.wait()
    await world.engine.containers.kill(id_, None)
    await stop
    assert world.keeper.signals == [(id_, 15), (id_, 9)]


async def test_kill_with_a_signal_that_does_not_end_it(world) -> None:
    id_ = await world.run()
    await world.engine.containers.kill(id_, "SIGUSR1")
    assert world.keeper.signals == [(id_, 10)]
    assert await status(world, id_) == "running"
    with pytest.raises(InvalidParameter, match="invalid signal: NOSUCH"):
        await world.engine.containers.kill(id_, "NOSUCH")


async def test_what_does_not_run_cannot_be_killed_paused_resized_or_looked_into(world) -> None:
    id_ = await world.create()
    containers = world.engine.containers
    for attempt in (
        containers.kill(id_, None),
        containers.pause(id_),
        containers.resize(id_, 1, 1),
        containers.top(id_, ""),
    ):
        with pytest.raises(Conflict, match=f"container {id_} is not running"):
            await attempt


async def test_restart_stops_and_starts_and_is_not_the_policy_s_business(world) -> None:
    id_ = await world.run(auto_remove=True)
    await world.engine.containers.restart(id_, None, 0)
    assert await status(world, id_) == "running"
    await world.settle()
    assert world.registry.get(id_) is not None
    assert world.actions()[2:] == ["kill", "die", "stop", "start", "restart"]
    assert world.networks.connected.keys() == {id_}


async def test_pause_freezes_and_kill_thaws(world) -> None:
    id_ = await world.run()
    await world.engine.containers.pause(id_)
    assert await status(world, id_) == "paused"
    with pytest.raises(Conflict, match="already paused"):
        await world.engine.containers.pause(id_)
    with pytest.raises(Conflict, match="cannot start a paused container, try unpause instead"):
        await world.engine.containers.start(id_, "")
    await world.engine.containers.unpause(id_)
    with pytest.raises(Conflict, match="is not paused"):
        await world.engine.containers.unpause(id_)
    await world.engine.containers.pause(id_)
    await world.engine.containers.kill(id_, None)
    assert [call[0] for call in world.native.calls] == ["freeze", "thaw", "freeze", "thaw"][
        : len(world.native.calls)
    ]
    assert await status(world, id_) == "exited"


async def test_rename(world) -> None:
    id_ = await world.create("aa")
    await world.create("bb")
    with pytest.raises(Conflict, match='The container name "/bb" is already in use by container "'):
        await world.engine.containers.rename("aa", "bb")
    with pytest.raises(InvalidParameter, match="Renaming a container with the same name"):
        await world.engine.containers.rename("aa", "aa")
    with pytest.raises(InvalidParameter, match=r"Invalid container name \(-x\), only \[a-zA-Z0-9\]"):
        await world.engine.containers.rename("aa", "-x")
    await world.engine.containers.rename("aa", "cc")
    assert world.registry.lookup("cc").id == id_
    await world.create("aa")


async def test_names_are_taken_once_and_free_after_a_failed_create(world) -> None:
    id_ = await world.create("xx")
    with pytest.raises(Conflict, match=f'"/xx" is already in use by container "{id_}"'):
        await world.create("xx")
    with pytest.raises(NotFound, match="No such image: nosuch:latest"):
        await world.create("yy", image="nosuch")
    with pytest.raises(InvalidParameter):
        await world.create("yy", stop_signal="NOSUCH")
    assert await world.create("yy")
    assert len(world.snapshots.keys) == 2


async def test_lookup_by_prefix(world) -> None:
    id_ = await world.create()
    assert world.registry.lookup(id_[:5]).id == id_
    assert world.registry.lookup("/" + world.registry.get(id_).record.name).id == id_
    while len({c.id[0] for c in world.registry}) == len(world.registry):
        await world.create()
    first = next(c.id[0] for c in world.registry if sum(d.id[0] == c.id[0] for d in world.registry) > 1)
    with pytest.raises(InvalidParameter, match="multiple IDs found with provided prefix"):
        world.registry.lookup(first)
    with pytest.raises(NotFound):
        world.registry.lookup("")


async def test_remove_refuses_one_that_runs_unless_forced(world) -> None:
    id_ = await world.run()
    with pytest.raises(Conflict, match="You cannot remove a running container"):
        await world.engine.containers.remove(id_, volumes=False, force=False, link=False)
    await world.engine.containers.remove(id_, volumes=False, force=True, link=False)
    assert world.actions()[-3:] == ["kill", "die", "destroy"]


async def test_a_removal_that_fails_leaves_it_dead_and_can_be_tried_again(world) -> None:
    id_ = await world.create(volumes={"/data": {}})

    async def fail(name: str, container_id: str) -> None:
        raise System("remove volume: input/output error")

    remove, world.volumes.remove_anonymous = world.volumes.remove_anonymous, fail
    with pytest.raises(System, match="input/output error"):
        await world.engine.containers.remove(id_, volumes=True, force=True, link=False)
    assert await status(world, id_) == "dead"
    world.volumes.remove_anonymous = remove
    await world.engine.containers.remove(id_, volumes=True, force=True, link=False)
    assert world.registry.get(id_) is None


async def test_wait_conditions(world) -> None:
    id_ = await world.create()
    assert (await (await world.engine.containers.wait(id_, ""))).status_code == 0
    with pytest.raises(InvalidParameter, match='invalid condition: "nosuch"'):
        await world.engine.containers.wait(id_, "nosuch")
    following = await world.engine.containers.wait(id_, "next-exit")
    removed = await world.engine.containers.wait(id_, "removed")
    await world.engine.containers.start(id_, "")
    world.keeper.end(id_, 4)
    assert (await following).status_code == 4
    assert not removed.done()
    await world.engine.containers.remove(id_, volumes=False, force=False, link=False)
    assert (await removed).status_code == 4


async def test_restart_on_failure_until_the_count_is_used_up(world) -> None:
    world.keeper.exit_at_once = 1
    policy = RestartPolicy(name="on-failure", maximum_retry_count=2)
    id_ = await world.run(restart_policy=policy)
    container = world.registry.get(id_)
    for _ in range(2):
        assert container.state.status == "restarting"
        container.restart_timer.cancel()
        world.engine._exits._restart_due(container)
        await world.settle()
    assert container.state.status == "exited"
    shown = await world.engine.containers.inspect(id_, size=False)
    assert shown.restart_count == 2
    assert len(world.keeper.plans) == 3


async def test_stopped_by_hand_is_not_restarted(world) -> None:
    id_ = await world.run(restart_policy=RestartPolicy(name="always"))
    await world.engine.containers.stop(id_, None, None)
    assert await status(world, id_) == "exited"
    await world.engine.containers.start(id_, "")
    world.keeper.end(id_, 0)
    assert await status(world, id_) == "restarting"
    assert (await world.engine.containers.inspect(id_, size=False)).state.running
    await world.engine.containers.stop(id_, None, None)
    assert await status(world, id_) == "exited"


async def test_prune_takes_what_does_not_run_and_matches(world) -> None:
    running = await world.run()
    kept = await world.create(labels={"keep": "1"})
    gone = await world.create()
    report = await world.engine.containers.prune({"label!": ["keep"]})
    assert report.containers_deleted == [gone]
    assert report.space_reclaimed == 1000
    assert {c.id for c in world.registry} == {running, kept}
    with pytest.raises(InvalidParameter, match="invalid filter 'nosuch'"):
        await world.engine.containers.prune({"nosuch": ["x"]})


async def test_a_platform_that_the_image_is_not_for(world) -> None:
    from proa.schema.container import ContainerCreateRequest

    body = ContainerCreateRequest(image="busybox", cmd=["true"])
    with pytest.raises(NotFound, match=r"its platform \(linux/amd64\) does not match the specified platform"):
        await world.engine.containers.create(None, body, "linux/arm64")
    assert await world.engine.containers.create(None, body, "linux/amd64")


async def test_a_forced_removal_and_rm_do_not_get_in_each_other_s_way(world) -> None:
    for _ in range(5):
        id_ = await world.run(auto_remove=True)
        await world.engine.containers.remove(id_, volumes=False, force=True, link=False)
    await world.settle()
    assert world.actions().count("destroy") == 5


async def test_who_waits_a_moment_too_late_still_learns_the_exit_of_one_that_rm_removed(world) -> None:
    id_ = await world.run("brief", auto_remove=True)
    world.keeper.end(id_, 7)
    await world.settle()
    assert world.registry.get(id_) is None
    for ref in (id_, id_[:12], "brief"):
        for condition in ("not-running", "removed", ""):
            assert (await (await world.engine.containers.wait(ref, condition))).status_code == 7
    with pytest.raises(NotFound):
        await world.engine.containers.wait(id_, "next-exit")
    kept = await world.run("kept")
    await world.engine.containers.remove(kept, volumes=False, force=True, link=False)
    with pytest.raises(NotFound):
        await world.engine.containers.wait(kept, "")


async def test_exits_of_removed_containers_are_told_for_a_minute(world) -> None:
    now = 0.0
    departed = Departed(lambda: now)
    departed.add("a" * 64, "one", State())
    assert departed.find("one") == departed.find("/one") == departed.find("aaaa")
    assert departed.find("") is None
    now = 61.0
    assert departed.find("one") is None


async def test_only_a_log_that_is_shipped_goes_with_the_start(world) -> None:
    await world.run("plain")
    shipped = LogConfig(type="fluentd", config={"fluentd-async": "true", "tag": "{{.Name}}"})
    id_ = await world.create("web", host_config=HostConfig(log_config=shipped))
    await world.engine.containers.rename("web", "renamed")
    await world.engine.containers.start(id_, "")
    (nothing, no_fd), (ship, _) = world.keeper.shipped
    assert (nothing, no_fd) == (None, 0)
    assert (ship.id, ship.format.tag) == (id_[:12], "renamed")


async def test_a_link_is_taken_away_and_its_container_stays(world) -> None:
    await world.run("db")
    id_ = await world.create("app", host_config=HostConfig(links=["db:d", "db"]))
    remove = partial(world.engine.containers.remove, volumes=False, force=False, link=True)
    await remove("/app/d")
    assert world.registry.lookup(id_).record.resolved.host_config.links == ["db"]
    with pytest.raises(NotFound, match="No such container: app/d"):
        await remove("/app/d")
    with pytest.raises(Conflict, match="cannot remove the default link name of the container"):
        await remove("app")
