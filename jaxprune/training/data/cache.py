"""Where computed things are kept between runs."""

import os
from pathlib import Path


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder that caches live in; not created here.

    Args:
        cache_dir: A folder, or None for the environment variable `JAXPRUNE_CACHE` and, where that
            is unset, `~/.cache/jaxprune`.

    Returns:
        An absolute path.
    """
    chosen = cache_dir or os.environ.get("JAXPRUNE_CACHE") or Path("~/.cache/jaxprune")
    return Path(chosen).expanduser().resolve()
