"""The queue: order, pauses, cancelling, retries, and servers that end while jobs run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.report.trials import textured_cube
from tests.serve.conftest import png, start_script, wait_until
from usd.core.loading import override
from usd.data.pictures import write_picture
from usd.math.camera import orbit_cameras_deg
from usd.mesh_io.gltf_rewrite import BinaryGltf
from usd.mesh_io.pictures import pictures
from usd.mesh_io.read import read_mesh
from usd.serve.job_queue import RETRIES, JobQueue, QueueFullError, StateConflictError
from usd.serve.jobs import JobRequest, JobStore, job_from
from usd.serve.uploads import check_picture

ROOT = Path(__file__).resolve().parents[2]


def request(mode="done", title="a red car"):
    return JobRequest("usd-text-to-3D-mini", title, title, (f"mode={mode}",))


def states(queue):
    return [job.state for job in queue.store.all()]


def test_fifty_jobs_queued_at_once_are_all_done_in_their_order(tmp_path, make_queue):
    order = []

    def start(task, out):
        order.append(task.name)
        return start_script(task, out)

    queue = make_queue(tmp_path, start=start)
    jobs = [queue.submit(request(title=f"car {number}")) for number in range(50)]
    wait_until(lambda: states(queue) == ["done"] * 50, 120)
    assert order == [job.id for job in jobs] == sorted(order)
    assert len({job.id for job in jobs}) == 50


def test_no_more_jobs_run_at_a_time_than_were_asked_for(tmp_path, make_queue):
    queue = make_queue(tmp_path, workers=2)
    jobs = [queue.submit(request("wait")) for _ in range(4)]
    wait_until(lambda: states(queue) == ["running", "running", "queued", "queued"])
    queue.ask(jobs[0].id, "cancel")
    wait_until(lambda: states(queue) == ["cancelled", "running", "running", "queued"])


def test_a_running_job_is_paused_with_its_process_gone_and_goes_on_when_asked(tmp_path, make_queue):
    queue = make_queue(tmp_path)
    job = queue.submit(request("wait"))
    started = queue.store.result(job) / "started"
    wait_until(started.exists)
    assert queue.ask(job.id, "pause").state == "pausing"
    wait_until(lambda: states(queue) == ["paused"])
    assert not queue._processes
    queue.ask(job.id, "resume")
    wait_until(lambda: started.read_text() == "xx")
    assert states(queue) == ["running"]


def test_a_job_that_waits_is_paused_at_once_and_the_next_one_runs(tmp_path, make_queue):
    queue = make_queue(tmp_path)
    first, second, third = (queue.submit(request(mode)) for mode in ("wait", "done", "done"))
    assert queue.ask(second.id, "pause").state == "paused"
    queue.ask(first.id, "cancel")
    wait_until(lambda: states(queue) == ["cancelled", "paused", "done"])
    with pytest.raises(StateConflictError, match="pause: the job is done"):
        queue.ask(third.id, "pause")


def test_a_job_cancelled_before_its_process_is_there_does_not_run_on(tmp_path, make_queue):
    def start(task, out):
        queue.ask(task.name, "cancel")
        return start_script(task, out)

    queue = make_queue(tmp_path, start=start)
    queue.submit(request("wait"))
    wait_until(lambda: states(queue) == ["cancelled"])


def test_what_crashes_is_tried_again_and_what_the_user_can_mend_is_not(tmp_path, make_queue):
    queue = make_queue(tmp_path)
    queue.submit(request("crash")), queue.submit(request("refuse"))
    wait_until(lambda: states(queue) == ["failed", "failed"])
    crashed, refused = queue.store.all()
    assert (crashed.attempts, crashed.error) == (1 + RETRIES, "out of paper")
    assert (refused.attempts, refused.error) == (1, "no such option")


def test_a_recipe_that_is_gone_fails_its_job_and_no_other(tmp_path, make_queue):
    queue = make_queue(tmp_path)
    queue.store.add(JobRequest("of-yesterday", "a car", "a car"))  # an older server took it
    queue.submit(request())
    wait_until(lambda: states(queue) == ["failed", "done"])
    assert "of-yesterday is no longer there" in queue.store.all()[0].error


def test_a_closed_queue_leaves_what_ran_to_the_next_one(tmp_path, make_queue):
    queue = make_queue(tmp_path)
    for _ in range(3):
        queue.submit(request("wait"))
    wait_until(lambda: states(queue)[0] == "running")
    queue.close()
    assert states(queue) == ["queued"] * 3 and queue.store.all()[0].attempts == 0
    assert JobStore(tmp_path).all() == queue.store.all()


SERVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.serve.conftest import start_script
from tests.serve.test_job_queue import request
from usd.serve.job_queue import JobQueue
from usd.serve.jobs import JobStore
queue = JobQueue(JobStore(Path(sys.argv[1])), start=start_script, check=print)
queue.submit(request("wait")), queue.submit(request())
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_jobs_of_a_killed_server_end_with_it_and_are_taken_up_by_the_next(tmp_path, make_queue):
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path), str(ROOT)], cwd=ROOT)
    try:
        wait_until(
            lambda: list(tmp_path.glob("00001-*/object/started")) and list(tmp_path.glob("00002-*")), 60
        )
        (child,) = psutil.Process(server.pid).children()
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    (record,) = tmp_path.glob("00001-*/job.json")
    assert json.loads(record.read_text())["state"] == "running"
    queue = make_queue(tmp_path)
    wait_until(lambda: (record.parent / "object" / "started").read_text() == "xx")
    queue.ask(record.parent.name, "cancel")
    wait_until(lambda: states(queue) == ["cancelled", "done"])


def test_the_queue_has_an_end(tmp_path, make_queue, monkeypatch):
    monkeypatch.setattr("usd.serve.job_queue.MOST_WAITING", 2)
    queue = make_queue(tmp_path, workers=0)
    queue.submit(request()), queue.submit(request())
    with pytest.raises(QueueFullError, match="2 jobs wait already"):
        queue.submit(request())
    assert len(list(tmp_path.iterdir())) == 2


# ------------------------------------------------------------------------------------------------------- on disk


def test_jobs_are_read_as_they_were_written(tmp_path):
    store = JobStore(tmp_path)
    job = store.add(request(title="ein grünes Haus"), check_picture(png()))
    again = JobStore(tmp_path)
    assert again.all() == [job]
    assert (again.path(job) / job.picture).read_bytes() == png()
    assert again.add(request()).id > job.id


@pytest.mark.parametrize(
    ("before", "after"),
    [("running", "queued"), ("pausing", "paused"), ("cancelling", "cancelled"), ("done", "done")],
)
def test_states_that_end_with_the_server(tmp_path, before, after):
    job = JobStore(tmp_path).add(request())
    file = tmp_path / job.id / "job.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "state": before}))
    assert JobStore(tmp_path).get(job.id).state == after


def test_half_a_submission_and_foreign_records_are_no_jobs(tmp_path, capsys):
    good = JobStore(tmp_path).add(request())
    (tmp_path / ".new-00009-aaaaaa").mkdir()
    for name, text in [("00002-bbbbbb", "{"), ("00003-cccccc", '{"id": "../x", "request": {"recipe": 1}}')]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text(text)
    assert [job.id for job in JobStore(tmp_path).all()] == [good.id]
    assert not (tmp_path / ".new-00009-aaaaaa").exists()
    assert capsys.readouterr().out.count("left out: job.json: is no record of a job") == 2


def test_a_job_hands_its_picture_and_sentence_to_its_recipe(tmp_path):
    store = JobStore(tmp_path)
    job = store.add(JobRequest("usd-full-mini", "car", "", ("seed=3",)), check_picture(png()))
    task = store.task(job)
    picture = override("stages.object.system.guidance.image_path", str(store.path(job) / "input.png"))
    assert task.overrides == (picture, "seed=3")
    assert task.is_picture and task.folder == str(store.path(job) / "object")
    words = store.task(store.add(request()))
    sentence = override("system.prompt_processor.prompt", "a red car")
    assert words.overrides == (sentence, "mode=done") and not words.is_picture
    assert job_from(json.loads((store.path(job) / "job.json").read_text())) == job


def test_this_queue_is_closed_twice_without_harm(tmp_path):
    queue = JobQueue(JobStore(tmp_path), ["cpu"], start=start_script, check=print)
    queue.close()
    queue.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_real_training_is_paused_and_done_by_another_server(tmp_path):
    options = (
        "trainer.max_steps=60",
        "trainer.val_check_interval=60",
        "data.n_test_views=2",
        "stages.mesh=null",
    )
    queue = JobQueue(JobStore(tmp_path))
    picture = check_picture((ROOT / "load" / "images" / "duck.png").read_bytes())
    job = queue.submit(JobRequest("usd-patch-mini", "duck", "", options), picture)
    metrics = queue.store.result(job) / "object" / "csv_logs" / "version_0" / "metrics.csv"
    wait_until(metrics.exists, 300)
    queue.ask(job.id, "pause")
    wait_until(lambda: states(queue) == ["paused"], 120)
    queue.close()
    again = JobQueue(JobStore(tmp_path))
    try:
        again.ask(job.id, "resume")
        wait_until(lambda: states(again) in (["done"], ["failed"]), 400)
    finally:
        again.close()
    (ended,) = again.store.all()
    assert (ended.state, ended.error, ended.figures["step"]) == ("done", "", 60)
    log = (queue.store.result(job) / "log.txt").read_text()
    assert log.count("stage object: starting") == log.count("stage object: going on") == 1


@pytest.mark.slow
def test_a_mesh_gets_another_texture_and_keeps_everything_else(tmp_path):
    """From the upload through both stages to the file and its report."""
    (tmp_path / "cube.glb").write_bytes(textured_cube())
    camera = orbit_cameras_deg(15.0, 30.0, 2.5, 40.0, 64)
    seen = pictures(read_mesh(tmp_path / "cube.glb", "y"), camera)[0]
    write_picture(tmp_path / "cube.png", seen)
    queue = JobQueue(JobStore(tmp_path / "jobs"))
    picture = check_picture((tmp_path / "cube.png").read_bytes())
    options = ("trainer.max_steps=2", "trainer.val_check_interval=0", "data.n_test_views=2")
    try:
        job = queue.submit(JobRequest("usd-improve-mini", "cube", "", options), picture, textured_cube())
        wait_until(lambda: states(queue) in (["done"], ["failed"]), 300)
    finally:
        queue.close()
    (ended,) = queue.store.all()
    assert (ended.state, ended.error) == ("done", "")
    made = queue.store.result(job) / "mesh"
    before = BinaryGltf(tmp_path / "cube.glb")
    after = BinaryGltf(made / "save" / "it2-export" / "model.glb")
    texture = before.images[0]["bufferView"]
    for index in range(len(before.tree["bufferViews"])):
        same = before.document.view_bytes(index) == after.document.view_bytes(index)
        assert same == (index != texture), index
    assert "model-viewer" in (made / "report.html").read_text("utf-8")
