"""Every run of these tests compiles the same few programs: they are compiled once."""

import os

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache


@pytest.fixture(autouse=True, scope="session")
def compiled_once(tmp_path_factory):
    """Keeps compiled programs for this session, in all its processes and those they start."""
    base = tmp_path_factory.getbasetemp()  # of one worker, if there are several
    folder = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
        before = jax.config.jax_compilation_cache_dir
        reset_cache()  # JAX looks at its settings once, at the first program it compiles
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
        yield
        reset_cache()
        jax.config.update("jax_compilation_cache_dir", before)
