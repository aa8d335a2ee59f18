"""The line of the user's code that an equation comes from."""

import sysconfig
from pathlib import Path
from typing import Any

from jax.extend import source_info_util

_LIBRARIES = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")
_HERE = str(Path(__file__).parent)


def source_line(source_info: Any, otherwise: str = "") -> str:
    """The source of an equation: "file:line (function)".

    That is the innermost line outside installed libraries, or the innermost one if there is none.
    """
    summary = source_info_util.summarize(source_info)
    traceback = getattr(source_info, "traceback", None)
    if traceback is None:
        return summary or otherwise
    for frame in traceback.frames:
        name = frame.file_name
        if name.startswith(_LIBRARIES) or not Path(name).is_absolute():
            continue
        if name.startswith((_STANDARD_LIBRARY, _HERE)):
            continue
        return f"{name}:{frame.line_num} ({frame.function_name})"
    return summary or otherwise
