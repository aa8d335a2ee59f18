"""Compiled programs kept on disk, so that a second or resumed run does not compile again."""

import hashlib
import platform
import warnings
from pathlib import Path

import jax

from jaxprune.training.data.cache import cache_folder

SECONDS_WORTH_KEEPING = 0.2


def keep_compiled(cache_dir: Path | None) -> None:
    """Switches on JAX's cache of compiled programs, unless the user has one already.

    What XLA compiles for a CPU may use all instructions of that very model, and must not be run on
    another one that shares the home folder: each model has a folder of its own.

    Args:
        cache_dir: See `jaxprune.training.data.cache.cache_folder`.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    folder = cache_folder(cache_dir) / f"compiled-{processor}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS_WORTH_KEEPING)
    # Where the cache cannot be read or written, or is damaged, everything is compiled as without.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def _processor() -> str:
    """What distinguishes processors: their model and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    telling = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(telling)}))
