"""Suites on a real SLURM of two nodes: whatever befalls their jobs, the records are those of one process."""

from __future__ import annotations

import dataclasses
import os
import random
import sys
import time
from pathlib import Path

import pytest
from helpers.slurm import Cluster
from helpers.slurm_suites import in_one_process, planned, results

from dinobench.errors import UserError
from dinobench.suite import slurm as on_slurm
from dinobench.suite.cells import Plan, State
from dinobench.suite.file import Resources
from dinobench.suite.slurm import submitting
from dinobench.suite.work import status
from dinobench.suite.work.folders import Folders

MODELS = '[models]\na = "pixels:4"\nb = "pixels:4"\nc = "pixels:4"\n[data]\ndigits = "digits"\n'
SMALL = 'default = { devices = 1, cpus = 1, memory = "100MB", hours = 0.5 }\n'
#: Two cells of each of three models.
KNN = f'{MODELS}[[run]]\nprotocol = "knn"\n[[run]]\nprotocol = "knn"\nset = {{ k = 5 }}\n[resources]\n{SMALL}'


def a_patient_one(stops: int, slurm: str, hours: float = 1.0) -> Plan:
    """The plan of a suite with one cell, done once it was stopped so often, which asks for all cores of a node."""
    return planned(
        f'retries = 1\n[models]\na = "pixels:4"\n[data]\ndigits = "digits"\n[[run]]\nprotocol = "patient"\n'
        f"set = {{ stops = {stops} }}\n"
        f'[resources]\ndefault = {{ devices = 1, cpus = 2, memory = "100MB", hours = {hours} }}\n[slurm]\n{slurm}\n'
    )


def root(plan: Plan) -> Path:
    return Folders(plan.suite.out.absolute(), plan.suite.name).root


def cell_log(plan: Plan) -> str:
    """What the cell of a plan wrote so far."""
    log = Folders(plan.suite.out.absolute(), plan.suite.name).log(plan.cells[0].key)
    return log.read_text() if log.exists() else ""


def the_log(plan: Plan) -> str:
    """What the suite's last job wrote."""
    (log,) = root(plan).glob("slurm/*/*_log.out")
    return log.read_text()


def all_done(plan: Plan) -> bool:
    return {cell.state for cell in plan.cells} == {State.DONE}


@pytest.mark.slow
def test_two_nodes_make_the_records_of_one_process(slurm: Cluster, folder: Path):
    plan = planned(f"{KNN}[slurm]\noptions = {{ hold = true }}\n")
    assert [len(group.cells) for group in plan.groups] == [2, 2, 2]
    submitted = on_slurm.submit(plan)
    (array,) = submitted.arrays
    assert len(array.groups) == 3 and submitted.queued == 0
    waiting = on_slurm.queued(root(plan))
    assert {cell.key for cell in plan.cells} == set(waiting)
    assert {job.id.partition("_")[0] for job in waiting.values()} == {array.job}
    states = {standing.host.split(" (")[0] for standing in status.of_plan(plan).cells}
    assert states == {f"job {array.job}_{task}" for task in range(3)}
    again = on_slurm.submit(plan)
    assert again.arrays == () and again.queued == 6
    slurm("scontrol", "release", array.job)
    slurm.wait_empty()
    assert results(folder / "results") == in_one_process(plan, folder / "other") and all_done(planned(KNN))
    assert on_slurm.queued(root(plan)) == {}
    assert on_slurm.submit(planned(KNN)).arrays == ()


@pytest.mark.slow
def test_killed_at_random_and_drained_no_record_is_lost_or_differs(slurm: Cluster, folder: Path):
    """Each round submits what is missing; steps, jobs and a node are taken away as it runs."""
    randomly, kills, rounds, first = random.Random(0), 0, 0, planned(KNN)
    while not all_done(planned(KNN)):
        rounds += 1
        assert rounds <= 6, slurm("squeue", "-r")
        on_slurm.submit(planned(KNN))
        if rounds == 1:
            slurm("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
        while slurm.jobs():
            time.sleep(randomly.uniform(0.2, 2.0))
            running = [job for job, state in slurm.jobs().items() if state == "RUNNING"]
            if running and kills < 4:
                kills += 1
                slurm("scancel", *(["--signal=KILL"] if kills % 2 else []), randomly.choice(running))
    assert kills == 4
    assert results(folder / "results") == in_one_process(first, folder / "other")


@pytest.mark.slow
def test_out_of_time_a_job_goes_on_where_it_stopped(slurm: Cluster, folder: Path):
    """SLURM warns a minute's job 22 s after its start at the earliest.

    Where that is too soon to have begun, on a machine with much else to do, it is put back all the same, once, and the
    next run submits it with more time.
    """
    warned = 'options = { signal = "USR2@8" }'
    for minutes in (1, 2, 4):
        plan = a_patient_one(1, warned, hours=minutes / 60)
        on_slurm.submit(plan)
        slurm.wait_empty(600)
        if all_done(a_patient_one(1, warned)):
            break
    assert "begins after 0" in cell_log(plan) and "begins after 1" in cell_log(plan)
    assert any("put back into the queue" in log.read_text() for log in root(plan).glob("slurm/*/*_log.out"))


@pytest.mark.slow
def test_preempted_a_job_goes_on_where_it_stopped(slurm: Cluster, folder: Path):
    plan = a_patient_one(1, 'partition = "scavenge"')
    on_slurm.submit(plan)
    slurm.wait(lambda: "begins after 0" in cell_log(plan), "start")
    slurm("sbatch", "--partition=main", "--nodes=2", "--ntasks=4", "--output=/dev/null", "--wrap=sleep 1")
    slurm.wait_empty()
    assert "begins after 1" in cell_log(plan)
    assert "put back into the queue" in the_log(plan) and all_done(a_patient_one(1, ""))


@pytest.mark.slow
def test_cancelled_a_job_stays_out_of_the_queue_and_is_submitted_by_the_next_run(slurm: Cluster, folder: Path):
    plan = a_patient_one(1, "")
    on_slurm.submit(plan)
    slurm.wait(lambda: "begins after 0" in cell_log(plan), "start")
    slurm("scancel", next(iter(slurm.jobs())))
    slurm.wait_empty()
    assert "not put back into the queue: cancelled" in the_log(plan)
    again = a_patient_one(1, "")
    assert again.cells[0].state is State.TODO
    on_slurm.submit(again)
    slurm.wait_empty()
    assert "begins after 1" in cell_log(plan) and all_done(a_patient_one(1, ""))


@pytest.mark.slow
def test_a_job_that_does_not_see_the_results_folder_says_so(slurm: Cluster, folder: Path):
    plan = a_patient_one(0, "options = { hold = true }")
    (array,) = on_slurm.submit(plan).arrays
    (file,) = root(plan).glob("slurm/*/submission.json")
    text_of_it = file.read_text()
    file.unlink()
    slurm("scontrol", "release", array.job)
    slurm.wait_empty()
    assert the_log(plan).count("\n") == 1
    assert f"does not see {file}: --out must be on a file system that all nodes share" in the_log(plan)
    file.write_text(text_of_it)


@pytest.mark.slow
def test_jobs_that_never_began_are_told_of(slurm: Cluster, folder: Path, capsys):
    plan = a_patient_one(0, "options = { hold = true }")
    (array,) = on_slurm.submit(plan).arrays
    slurm("scancel", array.job)
    slurm.wait_empty()
    on_slurm.submit(plan)
    said = capsys.readouterr().err
    assert "left the queue without a log" in said and "a file system that all of them share" in said, said


@pytest.mark.slow
def test_what_sbatch_refuses_is_one_line_and_leaves_nothing(slurm: Cluster, folder: Path):
    plan = a_patient_one(0, 'partition = "elsewhere"')
    with pytest.raises(UserError, match=r"^sbatch refuses: .*invalid partition specified: elsewhere$"):
        on_slurm.submit(plan)
    assert not list(root(plan).glob("slurm/*"))


def test_a_dry_run_says_what_would_be_submitted_and_needs_no_slurm(folder: Path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    more = '[slurm]\npartition = "gpu"\nat_once = 2\nreservation = "mine"\noptions = { nice = 5 }\n'
    plan = planned(KNN + "knn = { hours = 2 }\n" + more)
    (array,) = on_slurm.submit(plan, dry_run=True).arrays
    assert array.cells == 6 and array.job == "" and not (folder / "results").exists()
    assert array.options["time"] == 120 and array.options["mem"] == "100M" and array.options["partition"] == "gpu"
    assert array.options["array_parallelism"] == 2 and array.options["gpus_per_node"] == 1
    assert array.options["additional_parameters"] == {"requeue": True, "reservation": "mine", "nice": 5}


def test_resources_of_no_device_ask_for_none_and_gres_goes_before_them():
    assert "gpus_per_node" not in submitting.options(Resources(devices=0), {})
    asked = submitting.options(Resources(devices=2), {"gres": "gpu:a100:2"})
    assert asked["gres"] == "gpu:a100:2" and "gpus_per_node" not in asked


def test_groups_that_ask_for_other_resources_are_arrays_of_their_own(folder: Path, monkeypatch):
    plan = planned(KNN)
    other = dataclasses.replace(plan.groups[0], resources=Resources(hours=9.0))
    plan = dataclasses.replace(plan, groups=(other, *plan.groups[1:]))
    assert [len(array.groups) for array in submitting.arrays(plan, {})] == [1, 2]
    monkeypatch.setattr(submitting, "_limit", lambda: 1)
    assert [len(array.groups) for array in submitting.arrays(plan, {})] == [1, 1, 1]


def test_what_is_left_of_a_group_is_a_task_of_its_own(folder: Path):
    """Its file is not that of the task in the queue."""
    plan = planned(KNN)
    first, second = plan.groups[0].cells
    job = on_slurm.Job("1", "RUNNING", "n1")
    (array,) = submitting.arrays(plan, {first.key: job})
    assert array.groups[0].cells == (second,) and array.groups[0].key != plan.groups[0].key
    assert [group.key for group in array.groups[1:]] == [group.key for group in plan.groups[1:]]


def test_without_slurm_or_submitit_one_line_says_so(folder: Path, monkeypatch):
    plan = planned(KNN)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"^sbatch: no such command here"):
        on_slurm.submit(plan)
    for name in ("sbatch", "srun"):
        (folder / name).touch(0o755)
    monkeypatch.setenv("PATH", str(folder))
    (folder / "python").write_text(f"#!{os.path.realpath('/bin/sh')}\nexit 1\n")
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    with pytest.raises(UserError, match=r"python: cannot import submitit, .*pip install 'dinobench\[slurm\]' there$"):
        on_slurm.submit(plan)
    assert not (folder / "results").exists()
