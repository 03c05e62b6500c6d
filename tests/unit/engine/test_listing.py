"""`docker ps`: filters, order, and the words of the status column."""

import pytest
from msgspec.structs import replace

from proa.engine import listing
from proa.engine.durations import human, rfc3339
from proa.engine.list_filter import PruneFilter
from proa.engine.state import State, Status
from proa.errors import InvalidParameter, NotFound
from proa.network import PublishedPort
from proa.schema.container import ContainerConfig

SECOND = 1_000_000_000


async def names(world, *, all_: bool = True, limit: int = 0, **filters: list[str]) -> list[str]:
    found = await world.engine.containers.list(
        all=all_, limit=limit, size=False, filters={key.replace("_", "-"): v for key, v in filters.items()}
    )
    return [summary.names[0] for summary in found]


@pytest.fixture
async def three(world):
    """old (exited 3), mid (created), new (running), oldest first."""
    old = await world.run("old", labels={"tier": "front"}, volumes={"/data": {}})
    world.keeper.end(old, 3)
    await world.settle()
    await world.create("mid", labels={"tier": "back"}, exposed_ports={"80/tcp": {}})
    await world.run("new")
    return world


async def test_newest_first_and_only_what_runs_unless_all(three) -> None:
    assert await names(three, all_=False) == ["/new"]
    assert await names(three) == ["/new", "/mid", "/old"]
    assert await names(three, all_=False, limit=2) == ["/new", "/mid"]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"name": ["ol"]}, ["/old"]),
        ({"name": ["^/mid$", "new"]}, ["/new", "/mid"]),
        ({"name": ["*"]}, []),
        ({"label": ["tier"]}, ["/mid", "/old"]),
        ({"label": ["tier=front"]}, ["/old"]),
        ({"label": ["tier", "tier=back"]}, ["/mid"]),
        ({"status": ["created"]}, ["/mid"]),
        ({"status": ["exited", "running"]}, ["/new", "/old"]),
        ({"exited": ["3"]}, ["/old"]),
        ({"exited": ["0"]}, []),
        ({"before": ["new"]}, ["/mid", "/old"]),
        ({"since": ["old"]}, ["/new", "/mid"]),
        ({"since": ["old"], "before": ["new"]}, ["/mid"]),
        ({"ancestor": ["busybox"]}, ["/new", "/mid", "/old"]),
        ({"ancestor": ["alpine"]}, []),
        ({"volume": ["/data"]}, ["/old"]),
        ({"network": ["bridge"]}, ["/new", "/mid", "/old"]),
        ({"network": ["nnn"]}, ["/new"]),
        ({"health": ["none"]}, ["/new", "/mid", "/old"]),
        ({"expose": ["79-81/tcp"]}, []),  # none of them runs on an interface of its own
        ({"publish": ["80"]}, []),
        ({"is_task": ["true"]}, []),
        ({"is_task": ["false"]}, ["/new", "/mid", "/old"]),
    ],
)
async def test_filters(three, filters: dict[str, list[str]], wanted: list[str]) -> None:
    assert await names(three, **filters) == wanted


async def test_ports_are_told_by_their_number_on_the_host(three) -> None:
    ports = (
        PublishedPort(protocol="tcp", container_port=80, host_address="", host_port=8080),
        PublishedPort(protocol="udp", container_port=53, host_address="", host_port=0),
    )
    container = three.registry.lookup("new")
    sandbox = replace(container.state.sandbox, ports=ports)
    three.registry.set_state(container, replace(container.state, sandbox=sandbox))
    assert await names(three, publish=["8080"]) == ["/new"]
    assert await names(three, publish=["8000-8100/tcp"]) == ["/new"]
    for other in ("80", "8080/udp", "53/udp"):
        assert await names(three, publish=[other]) == []


async def test_filters_by_id(three) -> None:
    id_ = three.registry.lookup("mid").id
    assert await names(three, id=[id_[:8]]) == ["/mid"]


async def test_asking_for_a_status_asks_for_all(three) -> None:
    assert await names(three, all_=False, status=["created"]) == ["/mid"]


@pytest.mark.parametrize(
    ("filters", "error", "text"),
    [
        ({"nosuch": ["x"]}, InvalidParameter, "invalid filter 'nosuch'"),
        ({"status": ["x"]}, InvalidParameter, "invalid filter 'status=x'"),
        ({"exited": ["x"]}, InvalidParameter, "invalid filter 'exited=x'"),
        ({"health": ["x"]}, InvalidParameter, "invalid filter 'health=x'"),
        ({"is_task": ["x"]}, InvalidParameter, "invalid filter 'is-task=x'"),
        ({"publish": ["x"]}, InvalidParameter, 'for publish x: strconv.ParseUint: parsing "x"'),
        ({"publish": ["1-99999999999/tcp"]}, InvalidParameter, "invalid port: 1-99999999999/tcp"),
        ({"expose": ["-5"]}, InvalidParameter, "error while looking up for expose -5"),
        ({"before": ["nosuch"]}, NotFound, "No such container: nosuch"),
    ],
)
async def test_wrong_filters(world, filters, error, text: str) -> None:
    with pytest.raises(error, match=text):
        await names(world, **filters)


async def test_no_expression_holds_up_the_daemon(world) -> None:
    name = "a" * 60
    await world.create(f"{name}b")
    assert await names(world, name=["(a+)+$"]) == []
    assert await names(world, name=["^/(a+)+b$"]) == [f"/{name}b"]
    assert await names(world, name=["((a{1,900}){1,900}){1,900}"]) == []
    assert await names(world, name=["aab("]) == []


@pytest.mark.parametrize("until", ["9" * 400, "9" * 400 + "h", "1.1.1.1.h", "0001-01-01T00:00:00"])
def test_a_time_that_is_none_or_too_far_away(until: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid value for until filter"):
        PruneFilter({"until": [until]}, 0)


async def test_a_summary(three) -> None:
    (summary,) = await three.engine.containers.list(all=True, limit=1, size=True, filters={})
    assert summary.image == "busybox"
    assert summary.command == "sleep 1"
    assert summary.state == "running"
    assert summary.size_rw == 1000
    assert summary.size_root_fs == 6000
    assert summary.host_config == {"NetworkMode": "bridge"}
    assert summary.network_settings["Networks"]["bridge"].ip_address == "10.0.0.2"


@pytest.mark.parametrize(
    ("state", "health", "text"),
    [
        (State(), "", "Created"),
        (State(status=Status.RUNNING, started_ns=SECOND), "", "Up 3 seconds"),
        (State(status=Status.RUNNING, started_ns=SECOND), "healthy", "Up 3 seconds (healthy)"),
        (State(status=Status.RUNNING, started_ns=SECOND), "starting", "Up 3 seconds (health: starting)"),
        (State(status=Status.PAUSED, started_ns=SECOND), "healthy", "Up 3 seconds (Paused)"),
        (State(status=Status.EXITED, exit_code=7, finished_ns=2 * SECOND), "", "Exited (7) 2 seconds ago"),
        (
            State(status=Status.RESTARTING, exit_code=1, finished_ns=3 * SECOND),
            "",
            "Restarting (1) 1 second ago",
        ),
        (State(status=Status.REMOVING), "", "Removal In Progress"),
        (State(status=Status.DEAD), "", "Dead"),
        (State(exit_code=127, error="x"), "", "Created"),
    ],
)
def test_the_status_column(state: State, health: str, text: str) -> None:
    assert listing.status(state, health, 4 * SECOND) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (180, "3 minutes"),
        (3600, "About an hour"),
        (36 * 3600, "36 hours"),
        (48 * 3600, "2 days"),
        (15 * 86400, "2 weeks"),
        (70 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert human(int(seconds * SECOND)) == text


def test_points_in_time() -> None:
    assert rfc3339(0) == "0001-01-01T00:00:00Z"
    assert rfc3339(1_700_000_000 * SECOND) == "2023-11-14T22:13:20Z"
    assert rfc3339(1_700_000_000 * SECOND + 1_200) == "2023-11-14T22:13:20.0000012Z"


def test_a_command_with_spaces_is_quoted() -> None:
    assert listing.command(ContainerConfig(), ("sh", "-c", "echo x")) == "sh -c 'echo x'"
