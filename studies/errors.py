"""What can be wrong with a study.

    StudyError
    ├── SpecError            the YAML a user wrote
    ├── WarmStartError       another study whose trials cannot be used
    ├── RescoreError         a study whose images cannot be scored anew
    ├── RecipeError          a recipe that cannot be read or merged
    ├── DatabaseError        the study database: unreachable, of another version, locked
    │   ├── DatabaseAwayError       it cannot be reached now, and may come back
    │   ├── DatabaseLockedError     another process has held its lock for too long
    │   ├── DatabaseReadOnlyError   it can be read and not written
    │   ├── DatabaseReplacedError   its file is gone, or another one by now
    │   ├── LockLostError           this process was silent for so long that another has its lock
    │   ├── SchemaChangedError      another version has changed its tables while this one was at work
    │   └── WaitEndedError          the process was asked to stop while it waited for the database
    ├── ArtifactError        the artifact store: refused, full, not there
    │   ├── ArtifactsAwayError      it cannot be reached now, and may come back
    │   ├── ArtifactsLostError      it did not come back
    │   └── ArtifactsReplacedError  its folder is another one by now
    ├── RenderLostError      a stored render is gone, or damaged
    ├── PasswordError        a password file that cannot be used
    ├── StudyExistsError     a study of this name is there already
    ├── StudyMissingError    no study of this name
    ├── StudyBusyError       workers are at a study that is to be deleted or renamed
    └── StudyChangedError    resume refused: a parent file or the suite is no longer the same

The base of all is basics.errors.MergetuneError.
"""

from __future__ import annotations

from basics.errors import MergetuneError


class StudyError(MergetuneError):
    """Base of everything this package raises on purpose."""


class SpecError(StudyError):
    """The spec cannot be used as it is written."""


class WarmStartError(StudyError):
    """The study to begin with is of other files, or has nothing to give."""


class RescoreError(StudyError):
    """A study has no images to score anew, or they are not those of the new study."""


class RecipeError(StudyError):
    """A recipe is malformed or asks for what its method cannot do."""


class DatabaseError(StudyError):
    """The study database cannot be used."""


class DatabaseAwayError(DatabaseError):
    """The study database cannot be reached or is locked, and may be back in a while."""


class DatabaseLockedError(DatabaseError):
    """Another process holds the lock of the study database, and has not given it back in time."""


class DatabaseReplacedError(DatabaseError):
    """The file of the study database was removed, moved or replaced since it was opened."""


class LockLostError(DatabaseError):
    """A lock was given to another process, as its holder was silent for too long; what it held back is not stored."""


class WaitEndedError(DatabaseError):
    """The process was asked to stop while it waited for the study database or for another process's lock on it."""


class DatabaseReadOnlyError(DatabaseError):
    """The study database takes no writes: a file on a read-only mount, or a server that is a replica."""


class SchemaChangedError(DatabaseError):
    """Another version has changed the tables since they were opened, so this one writes nothing more."""


class ArtifactError(StudyError):
    """The artifact store cannot be used."""


class ArtifactsAwayError(ArtifactError):
    """The artifact store cannot be reached, and may be back in a while."""


class ArtifactsLostError(ArtifactError):
    """The artifact store went away in the middle of the work, and did not come back."""


class ArtifactsReplacedError(ArtifactError):
    """The artifact folder was replaced by another one since it was opened."""


class RenderLostError(StudyError):
    """A stored render is gone, or cannot be read."""


class PasswordError(StudyError):
    """A password file is missing, unreadable or empty."""


class StudyExistsError(StudyError):
    """A study of this name exists."""


class StudyMissingError(StudyError):
    """There is no study of this name."""


class StudyBusyError(StudyError):
    """Workers are at work on a study that is to be deleted or renamed."""


class StudyChangedError(StudyError):
    """What the study was begun with has changed since."""
