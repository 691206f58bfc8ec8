"""The spool: what was written is read in order, each once, whatever was cut off, and is gone once it is done."""

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.serving.realtime.log.folders import left_folders, own_folder
from pipeline_assets.serving.realtime.log.spool import SUFFIX, Record, Segment, Spool, SpoolFullError

MB = 1 << 20
RECORDS = st.lists(st.builds(Record, st.binary(max_size=12), st.binary(max_size=200), st.integers(0, 2**50)), min_size=1, max_size=6)


def spool_in(folder: Path, limit_bytes: int = MB, segment_bytes: int = 400) -> Spool:
    """An empty spool whose files are small."""
    return Spool(folder=folder, limit_bytes=limit_bytes, segment_bytes=segment_bytes)


def records(first: int, end: int) -> list[Record]:
    """Records that are told apart by their numbers."""
    return [Record(b"key %d" % number, b"value %d " % number * 3, number) for number in range(first, end)]


def files(folder: Path) -> list[Path]:
    """The files of a spool, in the order of their names."""
    return sorted(folder.glob(f"*{SUFFIX}"))


@given(st.lists(st.one_of(RECORDS, st.integers(1, 9), st.just("done"), st.just("next")), max_size=40), st.randoms())
def test_a_spool_is_a_queue_that_outlives_its_process(steps: list[object], random: Random) -> None:
    """Whatever is written, read, done in whatever order and taken over by the next process: nothing is lost or out of order.

    What a file has is there again for the next process, also what was done of it, until all is done.
    """
    with TemporaryDirectory() as folder:
        spool, unread, undone = spool_in(Path(folder)), list[Record](), list[Segment]()
        seen: dict[Segment, list[Record]] = {}
        for step in steps:
            if isinstance(step, list):
                spool.append(step)
                unread += step
            elif isinstance(step, int):
                found = spool.read(step)
                assert [record for record, _ in found] == unread[: len(found)]
                assert found or not unread
                unread = unread[len(found) :]
                for record, segment in found:
                    seen.setdefault(segment, []).append(record)
                    undone.append(segment)
            elif step == "done" and undone:
                spool.done(undone.pop(random.randrange(len(undone))))
            elif step == "next":
                unread = [*(one for segment, own in seen.items() if segment.path.exists() for one in own), *unread]
                spool, undone, seen = next_process(spool), [], {}
            assert spool.records == len(unread) + len(undone)
            assert spool.is_read == (not unread)
            assert spool.bytes == sum(path.stat().st_size for path in files(spool.folder))


def next_process(spool: Spool) -> Spool:
    """The spool of the next process, which takes over all files."""
    after = spool_in(spool.folder / "next")
    after.folder.mkdir()
    assert {after.adopt(path) for path in files(spool.folder)} <= {0}
    return after


def test_what_a_kill_cut_off_ends_the_file(tmp_path: Path) -> None:
    """Cut anywhere, a file gives its whole records, and says how many bytes are none."""
    spool = spool_in(tmp_path, segment_bytes=MB)
    written = records(0, 5)
    spool.append(written)
    (path,) = files(tmp_path)
    data, ends = path.read_bytes(), [sum(one.size for one in written[:count]) for count in range(6)]

    for length in range(len(data) + 1):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "left").write_bytes(data[:length])
        after = spool_in(folder)
        whole = max(count for count, end in enumerate(ends) if end <= length)

        assert after.adopt(folder / "left") == length - ends[whole]
        assert [record for record, _ in after.read(10)] == written[:whole]
        assert not (folder / "left").exists()


@pytest.mark.parametrize("place", [0, 7, 8, 11, 15, 20, 40])
def test_a_record_that_the_disk_changed_is_not_sent(tmp_path: Path, place: int) -> None:
    """A byte of the second record is another: the first is read, the rest of the file is given up and counted, later files are read."""
    spool = spool_in(tmp_path, segment_bytes=100)
    first, second = records(0, 3), records(3, 4)
    spool.append(first)
    spool.append(second)
    path = files(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[first[0].size + place % first[1].size] ^= 0xFF
    path.write_bytes(data)

    found = [record for _ in range(4) for record, _ in spool.read(10)]

    assert found == [first[0], *second]
    assert spool.unreadable == len(first) - 1
    assert spool.records == 1 + len(second)


def test_a_file_of_zeros_has_no_record(tmp_path: Path) -> None:
    """So a machine that failed may leave one: none of it is sent."""
    (tmp_path / "left").write_bytes(bytes(4_096))
    spool = spool_in(tmp_path)

    assert spool.adopt(tmp_path / "left") == 4_096
    assert spool.read(10) == []
    assert files(tmp_path) == []


def test_files_are_deleted_once_they_are_done(tmp_path: Path) -> None:
    """Closed files go with their last record; the one that is open goes when it is closed."""
    spool = spool_in(tmp_path, segment_bytes=200)
    for number in range(20):
        spool.append(records(number, number + 1))
    before = len(files(tmp_path))
    for _ in range(20):
        ((_, segment),) = spool.read(1)
        spool.done(segment)

    assert before > 3
    assert len(files(tmp_path)) == 1
    spool.close()
    assert (files(tmp_path), spool.records, spool.bytes) == ([], 0, 0)


def test_what_its_writer_sends_itself_is_not_read_again(tmp_path: Path) -> None:
    """Skipped records are not read, those after them are; all are in the file until they are done."""
    spool = spool_in(tmp_path, segment_bytes=MB)
    spool.skip(spool.append(records(0, 3)))
    assert spool.is_read
    spool.append(records(3, 5))

    assert [record for record, _ in spool.read(10)] == records(3, 5)
    assert spool.records == 5


def test_the_bound_is_kept_and_frees_itself(tmp_path: Path) -> None:
    """At the bound nothing more is written, not even in part; once files are done there is room again."""
    one = records(0, 1)[0].size
    spool = spool_in(tmp_path, limit_bytes=4 * one, segment_bytes=2 * one)
    spool.append(records(0, 2))
    spool.append(records(2, 4))
    with pytest.raises(SpoolFullError, match=f"{4 * one} of {4 * one} bytes"):
        spool.append(records(4, 5))
    for _, segment in spool.read(2):
        spool.done(segment)
    spool.append(records(4, 6))

    assert [record for _ in range(2) for record, _ in spool.read(10)] == records(2, 6)


def test_a_record_may_be_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    """It is read whole, between others."""
    large = Record(b"large", bytes(3 * MB), 1)
    spool = spool_in(tmp_path, limit_bytes=10 * MB, segment_bytes=10 * MB)
    spool.append([*records(0, 1), large, *records(1, 2)])

    assert [record for _ in range(3) for record, _ in spool.read(10)] == [*records(0, 1), large, *records(1, 2)]


def test_what_was_left_is_read_before_what_is_written_now(tmp_path: Path) -> None:
    """Also where something was written before it was taken over."""
    (tmp_path / "dead").mkdir()
    dead = spool_in(tmp_path / "dead", segment_bytes=100)
    for number in range(3):
        dead.append(records(number, number + 1))
    spool = spool_in(tmp_path)
    spool.append(records(3, 4))
    for path in files(tmp_path / "dead"):
        spool.adopt(path)
    spool.append(records(4, 5))

    assert [record for _ in range(6) for record, _ in spool.read(10)] == records(0, 5)


def test_only_folders_whose_process_is_no_more_are_taken_over(tmp_path: Path) -> None:
    """A folder that is locked is somebody's; one whose lock went with its process is taken by one alone, and goes when it is empty."""
    mine, dead = own_folder(tmp_path), own_folder(tmp_path)
    (dead.path / f"1{SUFFIX}").touch()
    assert list(left_folders(tmp_path)) == []
    dead_path = dead.path
    dead.leave()

    for folder in left_folders(tmp_path):
        assert folder == dead_path
        assert list(left_folders(tmp_path)) == []
        (folder / f"1{SUFFIX}").unlink()

    assert not dead_path.exists()
    mine.leave()
    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_are_for_their_user_alone(tmp_path: Path) -> None:
    """Requests and answers are nobody else's business."""
    folder = own_folder(tmp_path / "spool")
    spool_in(folder.path).append(records(0, 1))

    assert [oct(path.stat().st_mode & 0o777) for path in (tmp_path / "spool", folder.path, *files(folder.path))] == [
        "0o700",
        "0o700",
        "0o600",
    ]
    folder.leave()
