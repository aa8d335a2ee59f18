"""The version, said once: the package's metadata and every file that names it read it here."""

__version__ = "0.1.0"
