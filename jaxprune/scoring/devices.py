"""The devices that share a run's work: one, all of a machine, or those of several machines.

Candidates are divided among the devices of a mesh with one axis, and so are the examples of each
training step; all other arrays are on every device. Every process runs the same program with the
same random keys, and so takes the same decisions; what may differ between processes, such as what
is found on a disk, is agreed on with `everywhere`.
"""

import os
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprune.errors import UserError

T = TypeVar("T")

AXIS = "devices"
"""The name of the mesh's axis."""


def cores() -> int:
    """How many cores of the processor this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # on Linux
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def make_mesh(count: int | None = None) -> Mesh | None:
    """The devices that a run uses.

    Args:
        count: How many; by default all that JAX sees, on all hosts.

    Returns:
        A mesh of one axis, `AXIS`, or None where there is one device only.

    Raises:
        UserError: JAX does not see so many devices, or only some of several hosts' are asked for.
    """
    devices = jax.devices()
    if count is not None and count > len(devices):
        platform = devices[0].platform
        more = f"; XLA_FLAGS=--xla_force_host_platform_device_count={count} makes {count} of them"
        raise UserError(
            f"--devices {count}: JAX sees {len(devices)} ({platform})"
            f"{more if platform == 'cpu' else ''}"
        )
    if count not in (None, len(devices)) and jax.process_count() > 1:
        raise UserError(f"--devices {count}: a run on several hosts uses all of their devices")
    chosen = devices[:count]
    return Mesh(np.array(chosen), (AXIS,)) if len(chosen) > 1 else None


def connect(coordinator: str, processes: int | None, process: int | None) -> None:
    """Joins the processes of a run on several hosts; call it before anything uses a device.

    Args:
        coordinator: `address:port` of the first process, or "auto" where the cluster tells JAX
            (Slurm, Open MPI, Cloud TPU).
        processes: How many there are; not with "auto".
        process: Which one this is, from 0; not with "auto".

    Raises:
        UserError: The processes do not find each other.
    """
    address = None if coordinator == "auto" else coordinator
    # On CPUs two collectives that are under way at once would mix their messages.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(address, processes, process)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise UserError(f"--coordinator {coordinator}: {reason:.200}") from error


def is_first() -> bool:
    """Whether this process is the one that writes results and shows progress."""
    return jax.process_index() == 0


def several_processes() -> bool:
    """Whether other processes work on the same run."""
    return jax.process_count() > 1


def everywhere(here: bool) -> bool:
    """Whether something is so in every process; all must ask."""
    return here if not several_processes() else int(_added(np.int32(not here))) == 0


def as_first(tree: T) -> T:
    """The first process's values of a tree of arrays, in every process; all must ask."""
    if not several_processes():
        return tree
    return jax.tree.map(lambda leaf: _added(leaf if is_first() else np.zeros_like(leaf)), tree)


def _added(value: Any) -> np.ndarray:
    """The sum of what the processes have."""
    # By one collective over all devices. Those of `multihost_utils` are one for each local device,
    # whose messages CPUs mix up where processes have several.
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    zero = np.zeros_like(value)
    own = np.stack([np.asarray(value), *[zero] * (jax.local_device_count() - 1)])
    parts = jax.make_array_from_process_local_data(NamedSharding(mesh, P(AXIS)), own)
    added = jax.jit(
        lambda parts: parts.sum(0, parts.dtype), out_shardings=NamedSharding(mesh, P())
    )(parts)
    return np.asarray(added)


def replicate(tree: T, mesh: Mesh | None) -> T:
    """A tree of arrays as it is needed beside divided ones: on all devices of a mesh."""
    if mesh is None:
        return tree
    everywhere = NamedSharding(mesh, P())
    if not several_processes():
        return jax.device_put(tree, everywhere)

    def copy(leaf: Any) -> jax.Array:
        host = np.asarray(leaf)  # not by `device_put`, which compares the processes' arrays
        return jax.make_array_from_callback(host.shape, everywhere, lambda index: host[index])

    return jax.tree.map(copy, tree)


def replicated(tree: T, mesh: Mesh | None) -> T:
    """Inside jit: has a tree of arrays on all devices, whatever else XLA would choose."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def gather(tree: T, mesh: Mesh | None) -> T:
    """A tree of replicated arrays on one device again, free to be combined with any other."""
    return tree if mesh is None else jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), tree)


def divide(tree: Any, mesh: Mesh | None) -> Any:
    """Inside jit: has the leading axis divided among the devices, if it can be in equal parts."""
    if mesh is None or any(len(leaf) % mesh.size for leaf in jax.tree.leaves(tree)):
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P(AXIS)))
