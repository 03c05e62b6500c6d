"""The last touches that only a start can give a plan: its directories, its network, its user.

A start is on the clock: these replace fields of a frozen struct and do nothing else.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from proa.engine.resolve import capabilities, identity, process
from proa.engine.resolve.model import Resolved, VolumeWish
from proa.schema.plan import Bind, Mount, Network, Overlay, Plan


def ready(plan: Plan, *, rootfs: Overlay, net: Network) -> Plan:
    """The plan as the keeper takes it."""
    spaces = msgspec.structs.replace(plan.namespaces, net=net)
    return msgspec.structs.replace(plan, rootfs=rootfs, namespaces=spaces)


def located(plan: Plan, wishes: Sequence[VolumeWish], places: Mapping[str, str]) -> Plan:
    """The plan with the volumes that were mounted for this start where they are."""
    if not places:
        return plan
    sources = {wish.target: places[wish.name] for wish in wishes if wish.name in places}

    def placed(mount: Mount) -> Mount:
        if not isinstance(mount, Bind) or mount.target not in sources:
            return mount
        return msgspec.structs.replace(mount, source=sources[mount.target], late=True)

    return msgspec.structs.replace(plan, mounts=tuple(map(placed, plan.mounts)))


def with_identity(resolved: Resolved, read: Callable[[Sequence[str]], Sequence[bytes | None]]) -> Plan:
    """The plan with its user looked up again, for a restart after the container changed its own passwd."""
    config, plan = resolved.config, resolved.plan
    who = identity.identify(config.user, resolved.host_config.group_add or (), read)
    return msgspec.structs.replace(
        plan,
        process=msgspec.structs.replace(
            plan.process,
            uid=who.uid,
            gid=who.gid,
            groups=who.groups,
            env=process.environment(config, who.home, tty=config.tty),
            capabilities=capabilities.of_process(plan.process.capabilities.bounding, who.uid),
        ),
    )
