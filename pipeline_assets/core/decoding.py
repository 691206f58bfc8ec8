"""Metadata of Iceberg tables of which nothing can be made, though their bytes may be what somebody wrote."""

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from gzip import BadGzipFile

from sqlalchemy.exc import SQLAlchemyError

from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import PipelineError
from pipeline_assets.core.foreign import shown


@contextmanager
def decoding(path: str) -> Iterator[None]:
    """Raises ObjectDamaged where the block can make nothing of metadata, whatever error pyiceberg has for that.

    Where the store or the catalog cannot be asked, memory is short or the work is to stop, these errors are raised as they are.
    """
    try:
        yield
    except BadGzipFile as error:
        raise ObjectDamaged(path, f"cannot be read ({error})") from error
    except (PipelineError, OSError, SQLAlchemyError, MemoryError, CancelledError):
        raise
    except Exception as error:
        raise ObjectDamaged(path, f"cannot be read ({type(error).__name__}: {shown(error)})") from error
