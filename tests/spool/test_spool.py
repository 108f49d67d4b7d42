from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.contract import CallRecord, Compound, Refused, Release, Request, Settle, Tokens
from fiscus.contract.errors import SpoolUnavailable
from fiscus.spool import spool as module
from fiscus.spool.spool import Spool, read_set_aside, read_waiting


def settlement(number: int) -> Request:
    return Request(
        command=Settle(
            id=f"hold-{number}",
            total={"tokens": number},
            account="agent:x",
            record=CallRecord(model="m", tokens=Tokens(input=number)),
        )
    )


def settlements(*numbers: int) -> list[Request]:
    return [settlement(number) for number in numbers]


def waiting(spool: Spool) -> list[Request]:
    return spool.head(len(spool))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def test_what_was_taken_is_found_by_the_next_start_in_order(directory):
    # covers R53, E11
    first = Spool(directory, "t")
    first.append(settlements(1, 2))
    first.append([settlement(3), Request(command=Release(id="x", account="a"), tenant="other")])
    first.close()
    second = Spool(directory, "t")
    assert waiting(second) == [*settlements(1, 2, 3), Request(command=Release(id="x", account="a"), tenant="other")]


def test_it_makes_no_file_before_there_is_something_to_keep_and_leaves_none_when_all_is_delivered(directory):
    spool = Spool(directory, "t")
    assert files(directory) == []
    spool.append(settlements(1, 2))
    spool.drop(2)
    spool.close()
    assert files(directory) == []


def test_what_was_delivered_is_not_found_again(directory):
    spool = Spool(directory, "t")
    spool.append(settlements(*range(10)))
    spool.drop(10)
    spool.append(settlements(10, 11))
    spool.close()
    assert waiting(Spool(directory, "t")) == settlements(10, 11)


def test_after_a_crash_what_was_delivered_in_part_is_found_without_what_was_delivered(directory):
    # covers E7
    spool = Spool(directory, "t")
    spool.append(settlements(*range(10)))
    spool.drop(4)
    spool.append(settlements(10))
    spool.drop(1)
    crash(spool)
    heir = Spool(directory, "t")
    assert waiting(heir) == settlements(*range(5, 11))
    heir.append(settlements(11))
    heir.drop(2)
    crash(heir)
    assert waiting(Spool(directory, "t")) == settlements(*range(7, 12))


def test_a_mark_that_cannot_be_written_costs_nothing_but_a_second_delivery(directory):
    failing = False

    def fsync(descriptor: int) -> None:
        if failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.fsync(descriptor)

    spool = Spool(directory, "t", fsync=fsync)
    spool.append(settlements(*range(5)))
    failing = True
    spool.drop(2)
    failing = False
    assert waiting(spool) == settlements(2, 3, 4)
    spool.append(settlements(5))
    crash(spool)
    assert waiting(Spool(directory, "t"))[-4:] == settlements(2, 3, 4, 5)


def test_a_torn_file_that_was_taken_over_takes_marks(directory):
    spool = Spool(directory, "t")
    spool.append(settlements(*range(5)))
    crash(spool)
    (file,) = files(directory)
    file.write_bytes(file.read_bytes() + b"torn")
    heir = Spool(directory, "t")
    heir.drop(2)
    crash(heir)
    assert waiting(Spool(directory, "t")) == settlements(2, 3, 4)


def test_it_knows_about_which_ids_something_waits_and_since_when(directory):
    now = 1_000.0
    spool = Spool(directory, "t", clock_s=lambda: now)
    assert spool.age_s() == 0
    compound = Compound(commands=(Settle(id="a", total={"calls": 1}), Release(id="b")))
    spool.append([Request(command=compound, tenant="x"), settlement(1)])
    now = 1_007.0
    spool.append([settlement(1)])
    crash(spool)
    heir = Spool(directory, "t", clock_s=lambda: now)
    assert heir.age_s() == 7
    assert heir.holds("x", "a")
    assert heir.holds("x", "b")
    assert not heir.holds("default", "a")
    assert heir.holds("default", "hold-1")
    heir.drop(2)
    assert not heir.holds("x", "a")
    assert heir.holds("default", "hold-1")
    assert heir.age_s() == 0
    assert heir.waiting_bytes == len(module._line(settlement(1), 1_007_000))


def test_a_running_total_is_outdated_once_the_final_one_waits(directory):
    spool = Spool(directory, "t")
    running = Request(command=Settle(id="a", total={"tokens": 10}, final=False))
    spool.append([running])
    assert not spool.is_outdated(running)
    spool.append([Request(command=Settle(id="a", total={"tokens": 8}))])
    assert spool.is_outdated(running)
    assert not spool.is_outdated(Request(command=Settle(id="a", total={"tokens": 8})))


def test_what_was_refused_for_good_is_kept_with_the_reason_and_counted_by_the_next_start(directory):
    spool = Spool(directory, "t")
    spool.append(settlements(1))
    refused = Refused(code="unknown_hold", detail="there is no hold")
    spool.set_aside([(settlement(1), refused)])
    spool.drop(1)
    spool.close()
    heir = Spool(directory, "t")
    assert heir.set_aside_count == 1
    (kept,) = read_set_aside(heir.refused_path)
    assert (kept.request, kept.refused) == (settlement(1), refused)
    assert heir.refused_path.stat().st_mode & 0o077 == 0


def test_what_waits_can_be_looked_at_without_taking_it_over(directory):
    spool = Spool(directory, "t")
    spool.append(settlements(1, 2, 3))
    spool.drop(1)
    assert [found.command.id for _, found in read_waiting(directory)] == ["hold-2", "hold-3"]
    assert waiting(spool) == settlements(2, 3)


def test_delivered_records_are_compacted_while_others_wait(directory, monkeypatch):
    monkeypatch.setattr(module, "COMPACT_BYTES_MIN", 1_000)
    spool = Spool(directory, "t")
    spool.append(settlements(*range(100)))
    (file,) = files(directory)
    before = file.stat().st_size
    spool.drop(90)
    assert file.stat().st_size < before / 5
    spool.append(settlements(100))
    crash(spool)
    assert waiting(Spool(directory, "t")) == settlements(*range(90, 101))


def test_two_processes_never_share_a_file(directory):
    first, second = Spool(directory, "t"), Spool(directory, "t")
    first.append(settlements(1))
    second.append(settlements(2))
    assert len(files(directory)) == 2
    third = Spool(directory, "t")
    assert len(third) == 0
    first.close()
    assert waiting(Spool(directory, "t")) == settlements(1)
    assert waiting(second) == settlements(2)


def test_the_files_of_several_dead_processes_are_taken_over_in_their_order_and_removed_when_delivered(directory):
    spools = [Spool(directory, "t") for _ in range(3)]
    for number, spool in enumerate(spools):
        spool.append(settlements(number))
    for spool in spools:
        crash(spool)
    heir = Spool(directory, "t")
    heir.append(settlements(3))
    assert waiting(heir) == settlements(0, 1, 2, 3)
    heir.drop(3)
    assert len(files(directory)) == 1
    heir.drop(1)
    heir.close()
    assert files(directory) == []


def test_requests_for_one_ledger_are_never_given_to_another(directory):
    spool = Spool(directory, "one")
    spool.append(settlements(1))
    spool.close()
    assert len(Spool(directory, "two")) == 0
    assert len(Spool(directory, "one")) == 1


@given(kept=st.integers(0, 5), cut=st.integers(1, 400))
def test_a_torn_tail_costs_nothing_that_was_acknowledged(tmp_path_factory, kept, cut):
    # covers E11
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool(directory, "t")
    if kept:
        spool.append(settlements(*range(kept)))
        crash(spool)
        (file,) = directory.glob("*.spool")
    else:
        file = directory / "t-0.spool"
        file.touch()
    whole = file.read_bytes()
    torn = module._line(settlement(99))[:-1][:cut]
    file.write_bytes(whole + torn)
    heir = Spool(directory, "t")
    assert waiting(heir) == settlements(*range(kept))
    heir.append(settlements(77))
    crash(heir)
    assert waiting(Spool(directory, "t")) == settlements(*range(kept), 77)


def test_a_damaged_record_does_not_take_the_others_along_and_is_kept_for_people(directory):
    spool = Spool(directory, "t")
    spool.append(settlements(1, 2, 3))
    crash(spool)
    (file,) = files(directory)
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"hold-2"', b'"hold-X"'))
    assert waiting(Spool(directory, "t")) == settlements(1, 3)
    (damaged,) = directory.glob("*.damaged")
    assert b"hold-X" in damaged.read_bytes()


def test_it_says_so_when_it_is_full_and_takes_nothing(directory):
    spool = Spool(directory, "t", records_max=3)
    spool.append(settlements(1, 2))
    with pytest.raises(SpoolUnavailable, match=r"2 requests .* wait .* no more fit"):
        spool.append(settlements(3, 4))
    assert waiting(spool) == settlements(1, 2)
    spool.append(settlements(3))
    spool.drop(1)
    spool.append(settlements(4))
    assert waiting(spool) == settlements(2, 3, 4)


def test_the_bytes_of_what_waits_are_bounded(directory):
    line_bytes = len(module._line(settlement(1), 1_000_000))
    spool = Spool(directory, "t", bytes_max=3 * line_bytes, clock_s=lambda: 1_000.0)
    spool.append(settlements(1, 2, 3))
    with pytest.raises(SpoolUnavailable):
        spool.append(settlements(4))
    spool.drop(1)
    spool.append(settlements(4))
    assert waiting(spool) == settlements(2, 3, 4)


def test_an_error_of_the_disk_takes_nothing_and_what_comes_after_it_is_whole(directory):
    failing = False

    def fsync(descriptor: int) -> None:
        if failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.fsync(descriptor)

    spool = Spool(directory, "t", fsync=fsync)
    spool.append(settlements(1))
    failing = True
    with pytest.raises(SpoolUnavailable, match="No space left"):
        spool.append(settlements(2, 4))
    assert waiting(spool) == settlements(1)
    failing = False
    spool.append(settlements(3))
    crash(spool)
    assert waiting(Spool(directory, "t")) == settlements(1, 3)


def test_a_full_disk_is_told(directory):
    """A real one: the file may not grow beyond a limit of the process."""
    script = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
sys.dont_write_bytecode = True  # it would be cut off at the limit, and be there for others
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
from pathlib import Path
from fiscus.contract.errors import SpoolUnavailable
from fiscus.spool.spool import Spool
from tests.spool.test_spool import settlements
spool, taken = Spool(Path({str(directory)!r}), "t"), 0
try:
    for taken in range(1_000):
        spool.append(settlements(taken))
except SpoolUnavailable as error:
    print(taken, error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    taken = int(result.stdout.split()[0])
    assert "cannot write" in result.stdout
    assert 0 < taken < 1_000
    assert waiting(Spool(directory, "t")) == settlements(*range(taken))


def test_it_returns_only_after_the_disk_has_it(directory):
    # covers E11
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)

    spool = Spool(directory, "t", fsync=fsync)
    spool.append(settlements(1))
    (file,) = directory.glob("*.spool")
    assert synced[-1] == file.stat().st_size > 0
    assert len(synced) == 2  # the directory, which has a new file, and the file


def test_nobody_else_can_read_it(directory):
    spool = Spool(directory, "t")
    spool.append(settlements(1))
    (file,) = files(directory)
    assert file.stat().st_mode & 0o077 == 0
    assert directory.stat().st_mode & 0o077 == 0


def test_many_threads_may_use_one(directory):
    spool = Spool(directory, "t")
    threads = [threading.Thread(target=spool.append, args=[settlements(number)]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    crash(spool)
    assert sorted(request.command.id for request in waiting(Spool(directory, "t"))) == sorted(
        request.command.id for request in settlements(*range(20))
    )


@pytest.mark.parametrize("round_", range(3))
def test_after_kill_9_everything_that_was_acknowledged_is_there_and_the_lock_is_free(directory, round_):
    # covers E11, R53
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from fiscus.spool.spool import Spool
from tests.spool.test_spool import settlements
spool = Spool(Path({str(directory)!r}), "t")
for number in range(1_000_000):
    spool.append(settlements(number))
    print(number, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20 * (round_ + 1)):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")[:-1]
    acknowledged = int(rest[-1]) if rest else acknowledged
    found = waiting(Spool(directory, "t"))
    assert len(found) >= acknowledged + 1
    assert found == settlements(*range(len(found)))


def crash(spool: Spool) -> None:
    """Let go of the files without any farewell, as the end of a process does."""
    for file in (*spool._adopted, *([spool._own] if spool._own else [])):
        file.close()
    spool._adopted, spool._own = [], None
