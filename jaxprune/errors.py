"""The error that a command line shows as one line."""


class UserError(ValueError):
    """What a user typed cannot work; the message names the value and the remedy in one line."""
