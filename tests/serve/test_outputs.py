"""What a job has made so far: latest trial, newest picture, progress, the log's end."""

import os

import pytest

from usd.serve import outputs


def trial(result, name, at, steps=800):
    folder = result / name
    (folder / "save").mkdir(parents=True)
    (folder / "configs").mkdir()
    (folder / "configs" / "parsed.yaml").write_text(f"trainer:\n  max_steps: {steps}\n")
    os.utime(folder / "configs", (at, at))
    return folder


def written(file, at, text="x"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (at, at))
    return file


def test_nothing_is_there_before_the_first_trial(tmp_path):
    result = tmp_path / "object"
    assert outputs.trials(result) == [] and outputs.progress_of(result) is None
    assert outputs.preview_of(result) is None and outputs.report_of(result) is None
    assert outputs.log_end(result) == "" and outputs.result_files(tmp_path) == []


def test_the_preview_is_the_newest_picture_of_any_stage_but_not_of_one_that_was_set_aside(tmp_path):
    first, aside = trial(tmp_path, "patch", 10), trial(tmp_path, "patch~1", 5)
    written(first / "save" / "it400-0.png", 20)
    newest = written(first / "save" / "it800-turntable" / "0.png", 30)
    written(first / "save" / "reference.png", 90)
    written(first / "save" / "it800-test.png", 91)
    written(aside / "save" / "it400-0.png", 99)
    assert outputs.preview_of(tmp_path) == newest


def test_progress_is_that_of_the_latest_stage(tmp_path):
    trial(tmp_path, "patch", 10)
    latest = trial(tmp_path, "geometry", 20, steps=300)
    written(latest / "csv_logs" / "version_0" / "metrics.csv", 30, "step,train/loss\n99,0.5\n119,0.4\n")
    assert outputs.progress_of(tmp_path) == outputs.JobProgress("geometry", 120, 300)


def test_a_stage_that_has_logged_nothing_is_at_step_0_and_not_where_the_one_before_ended(tmp_path):
    before = trial(tmp_path, "patch", 10)
    written(before / "csv_logs" / "version_0" / "metrics.csv", 30, "step,train/loss\n99,0.5\n")
    trial(tmp_path, "geometry", 20)
    assert outputs.progress_of(tmp_path) == outputs.JobProgress("geometry", 0, 800)


def test_a_configuration_that_is_being_written_is_no_error(tmp_path):
    (trial(tmp_path, "patch", 10) / "configs" / "parsed.yaml").unlink()
    assert outputs.progress_of(tmp_path) == outputs.JobProgress("patch", 0, 0)


def test_only_the_end_of_a_long_log_is_told(tmp_path):
    (tmp_path / "log.txt").write_text("a" * 20000 + "the end")
    assert len(outputs.log_end(tmp_path)) == outputs.LOG_END and outputs.log_end(tmp_path).endswith("the end")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "C:\\x", "a\\..\\x", ".lock", "a/.b", "job.json", "\0", "", "."]
)
def test_names_that_are_no_files_of_a_job(tmp_path, name):
    with pytest.raises((FileNotFoundError, ValueError)):
        outputs.result_file(tmp_path, name)
