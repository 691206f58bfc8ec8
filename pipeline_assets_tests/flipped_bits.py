"""Objects with one wrong bit, as a disk or a wire leaves them."""

from typing import TYPE_CHECKING

from pipeline_assets.core.connections import catalog, object_store
from pipeline_assets.core.iceberg import Identifier
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.lake import files

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def flipped(content: bytes, bit: int) -> bytes:
    """The content with another value of one bit, counted from its start."""
    place, which = divmod(bit, 8)
    return content[:place] + bytes([content[place] ^ (1 << which)]) + content[place + 1 :]


def flip(client: "S3Client", bucket: str, key: str, bit: int) -> None:
    """Another value of one bit of an object; `bit` counts from its start, and again from there beyond its end."""
    content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    client.put_object(Bucket=bucket, Key=key, Body=flipped(content, bit % (len(content) * 8)))


def live_keys(settings: Settings, identifier: Identifier) -> list[str]:
    """The keys of a table's files, by day."""
    with catalog(settings) as lake:
        found = files.live_files(lake.load_table(identifier))
    return [file.file_path.removeprefix(f"s3://{settings.s3_bucket}/") for file in found]


def damage_two_days(settings: Settings, identifier: Identifier) -> None:
    """Deletes the file of the first day of a table, and flips a bit in that of the second."""
    client, (gone, wrong, *_) = object_store(settings), live_keys(settings, identifier)
    client.delete_object(Bucket=settings.s3_bucket, Key=gone)
    flip(client, settings.s3_bucket, wrong, 4711)
