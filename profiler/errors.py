"""What can be wrong with a command that works with files; each message is a sentence for people."""

from __future__ import annotations


class UsageError(Exception):
    """The command line asks for something that cannot be."""


class FileError(Exception):
    """A file cannot be read, or what was asked for cannot be made of it."""


class WriteError(Exception):
    """A file cannot be written."""
