"""What is read of the files that a run left, whole or not."""

from pathlib import Path

from usd.batch.summary import figures_of


def test_half_a_row_of_a_killed_run_is_not_read(tmp_path: Path) -> None:
    log = tmp_path / "object" / "csv_logs" / "version_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    (tmp_path / "object" / "configs").mkdir()
    whole = "step,train/loss,train/psnr\n0,2.5,10.0\n1,1.25,20.0\n"
    log.write_text(whole + "2,0.625,4")
    assert figures_of(tmp_path) == {"step": 2.0, "loss": 1.25, "psnr": 20.0}
    log.write_text(whole)
    assert figures_of(tmp_path) == {"step": 2.0, "loss": 1.25, "psnr": 20.0}
