"""The error that a command line shows as one line."""


class UserError(ValueError):
    """What the user asked for cannot work; the message names the value and the remedy."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, for quoting it in a message of one line."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{lines[0]:.300}"
