"""The errors a caller can meet: one small hierarchy, each with the exit code its command ends with."""


class BagelError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 1


class InputError(BagelError, ValueError):
    """A request that cannot be honoured: an option, a size, an image, a path."""

    exit_code = 2


class CheckpointError(BagelError, ValueError):
    """A checkpoint that cannot be read as BAGEL; the message names the file and the key."""

    exit_code = 2


class ArtefactError(BagelError, ValueError):
    """An artefact folder that is missing, damaged or made for another version."""

    exit_code = 2


class QueueFull(BagelError):
    """As many requests as are allowed wait already (load's queue_length). Nothing was begun; try again later."""


class QueueTimeout(QueueFull):
    """A request waited as long as is allowed (load's queue_seconds). Nothing was begun; try again later."""


class CacheFullError(BagelError, MemoryError):
    """The page pool has fewer free tokens than a context needs."""

    exit_code = 2


class EngineError(BagelError, RuntimeError):
    """An engine failed to load or run a graph."""


class EngineUnavailableError(EngineError):
    """An engine that is unknown, not installed, or cannot do what was asked of it."""

    exit_code = 2


class OutOfDeviceMemoryError(EngineError):
    """A device has too little memory for a graph or a call. The model is still open; a smaller request may work."""


class NotFiniteError(EngineError):
    """A model computed NaN or infinity where a picture or a text was to come of it."""


class ExportError(BagelError, RuntimeError):
    """An export that could not be carried out: no room on the disk, a target that exists."""

    exit_code = 2


class OutputError(BagelError, OSError):
    """A file that could not be written though its place was fit for it before: a full disk, a folder that went."""
