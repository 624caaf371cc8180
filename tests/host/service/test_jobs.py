"""The queue of a service: what is told there outlives any process."""

import sqlite3
from contextlib import closing

import pytest
from crowdlearn_host.errors import RunError
from crowdlearn_host.service.jobs import Jobs


def test_runs_of_high_priority_come_first_and_then_the_older(tmp_path):
    jobs = Jobs(tmp_path)
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5)):
        jobs.submit(name, "", priority)
    assert [job.name for job in Jobs(tmp_path).all("waiting")] == ["b", "d", "a", "c"]


def test_a_run_has_its_devices_and_each_counts_its_runs(tmp_path):
    jobs = Jobs(tmp_path)
    first, second = jobs.submit("a", ""), jobs.submit("a", "")
    assert first.label != second.label
    jobs.begin(first, 1, ["x", "y"], 3, "begun")
    jobs.choose(first.id, ["z"])
    jobs.begin(second, 1, ["x"], 1, "begun")
    jobs.let_go(first.id, "y")
    assert jobs.members(first.id) == {"x": True, "y": False, "z": True}
    assert {name: runs for name, (_, runs) in jobs.chosen().items()} == {"x": 2, "y": 1, "z": 1}
    begun = jobs.job(first.id)
    assert (begun.state, begun.groups, begun.seats, begun.description) == ("running", 1, 3, "begun")


def test_the_last_runs_that_ended_are_found_among_many(tmp_path):
    jobs = Jobs(tmp_path)
    made = [jobs.submit(str(number), "", priority=-number) for number in range(5)]
    for job in made[1:]:
        jobs.end(job.id, "done", "")
    assert [job.name for job in jobs.ended(3)] == ["4", "3", "2"]
    assert len(jobs.ended(9)) == 4


def test_a_device_is_needed_by_the_runs_that_have_not_let_it_go(tmp_path):
    jobs = Jobs(tmp_path)
    first, second = jobs.submit("a", ""), jobs.submit("b", "")
    jobs.begin(first, 1, ["x", "y"], 2, "")
    jobs.begin(second, 1, ["z"], 1, "")
    jobs.let_go(first.id, "y")
    assert [jobs.needs([first.id], device) for device in "xyz"] == [True, False, False]
    assert jobs.needs([first.id, second.id], "z")
    assert not jobs.needs([], "x")


def test_what_has_ended_stays_as_it_is(tmp_path):
    jobs = Jobs(tmp_path)
    job = jobs.submit("a", "")
    assert jobs.cancel(job.id).state == "cancelled"
    jobs.begin(job, 1, ["x"], 1, "")
    jobs.end(job.id, "done", "")
    assert jobs.job(job.id).state == "cancelled"
    with pytest.raises(RunError, match="is cancelled already"):
        jobs.cancel(job.id)
    with pytest.raises(RunError, match="there is no run 7"):
        jobs.job(7)
    assert jobs.counts() == {"cancelled": 1}


def test_a_queue_that_is_damaged_or_newer_is_refused_in_words(tmp_path):
    (tmp_path / "service.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(RunError, match="cannot be used"):
        Jobs(tmp_path)
    (tmp_path / "service.db").unlink()
    with closing(sqlite3.connect(tmp_path / "service.db")) as db:
        db.execute("pragma user_version = 99")
    with pytest.raises(RunError, match="version 99"):
        Jobs(tmp_path)


def test_a_file_is_no_folder_of_a_service(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(RunError, match="is not a folder; name the folder of a service"):
            Jobs(place)
