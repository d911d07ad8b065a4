"""The exceptions that PMM raises on purpose; the command line prints them without a traceback.

::

    PmmError                  the user can mend it; the message says what to run
    ├── InputError            raw files, options or names that cannot be used
    ├── RecipeError           unknown keys or values of the wrong type, all named at once
    ├── SchemaError           a table that does not have its declared columns
    ├── StorageError          the home folder cannot be written, or the disk is full
    └── ArtefactError
        ├── MissingArtefact   a stage was asked for before the stage that feeds it
        ├── StaleArtefact     made from inputs or options that have since changed
        └── BrokenArtefact    its files do not match its manifest
"""

import difflib
from collections.abc import Iterable


class PmmError(Exception):
    """Base of all errors that a user can mend. The command line exits with status 1."""


class InputError(PmmError):
    """Raw files, options or names that cannot be used."""


class RecipeError(PmmError):
    """A recipe with unknown keys or values of the wrong type."""


class SchemaError(PmmError):
    """A table that does not have its declared columns, types or ranges."""


class StorageError(PmmError):
    """The home folder cannot be written, or the disk is full."""


class ArtefactError(PmmError):
    """An artefact that cannot be used as it is."""


class MissingArtefact(ArtefactError):
    """A stage was asked for before the stage that feeds it."""


class StaleArtefact(ArtefactError):
    """An artefact made from inputs or options that have since changed."""


class BrokenArtefact(ArtefactError):
    """An artefact whose files do not match its manifest."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest known name, or lists a few.

    >>> nearest("HM Shoos", ["HM Shoes", "HM Clothes"])
    'did you mean "HM Shoes"?'
    >>> nearest("xyz", ["a", "b"])
    'known: a, b'
    """
    names = list(known)
    folded = {candidate.casefold(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    if close:
        return f'did you mean "{folded[close[0]]}"?'
    return "known: " + (", ".join(names[:20]) if names else "none")
