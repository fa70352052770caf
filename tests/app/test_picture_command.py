"""``usd picture``: holes are cut where they are holes, the picture shows most of what is recognized, files are told."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import usd.app.picture_command as command
from usd.app.picture_command import Candidate, best_candidate, candidate_cutout
from usd.core.errors import UserError
from usd.data.pictures import read_rgba


def ring(hole: float = 1.0, size: int = 64) -> torch.Tensor:
    """Return a red ring on white, in whose middle another gray level shows; a white dot is painted on it."""
    line = torch.arange(size) - size / 2 + 0.5
    radius = (line[:, None] ** 2 + line[None] ** 2).sqrt()
    picture = torch.ones(3, size, size)
    picture[1:, radius < 26] = 0.1
    picture[:, radius < 10] = hole
    picture[:, 10, 32] = 1.0
    return picture


def test_a_hole_shows_the_background_and_painted_dots_stay() -> None:
    cut = candidate_cutout(ring(), holes=True)
    assert cut.shape == (4, 64, 64)
    assert cut[3, 32, 32] == 0 and cut[3, 32, 12] == 1 and cut[3, 10, 32] == 1 and cut[3, 0, 0] == 0
    assert candidate_cutout(ring(), holes=False)[3, 32, 32] == 1, "white paint on a photograph"
    assert candidate_cutout(ring(0.95), holes=True)[3, 32, 32] == 1, "a lighter part is no hole"


def test_without_a_plain_background_there_is_no_object() -> None:
    noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert float(candidate_cutout(noise, holes=True)[3].max()) == 0


def test_of_what_is_recognized_the_picture_that_shows_most_of_the_object_is_chosen() -> None:
    found = [Candidate(0.5, -0.2), Candidate(0.2, 0.15), Candidate(0.3, 0.1), Candidate(0.0, 0.4)]
    assert best_candidate(found) == 2
    assert best_candidate([Candidate(0.1, None), Candidate(0.4, None)]) == 1
    assert best_candidate([Candidate(0.0, None)]) is None


@pytest.fixture(scope="module", autouse=True)
def _asked() -> Iterator[None]:
    """Take the first candidate for the sentence, without the embedded CLIP."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "recognized", lambda pictures, prompt: torch.eye(len(pictures))[0])
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the best of three pictures."""
    out = tmp_path_factory.mktemp("picture")
    assert command.main(["a red ball", str(out), "--count", "3", "--steps", "3"]) == 0
    return out


def test_the_picture_is_one_of_the_candidates_cut_out(made: Path) -> None:
    record = json.loads((made / "picture.json").read_text())
    assert record["prompt"] == "a red ball" and len(record["candidates"]) == 3 and record["chosen"] == 0
    assert len(list((made / "candidates").glob("*.png"))) == 3 and (made / "candidates.png").is_file()
    picture = read_rgba(made / "picture.png")
    chosen = read_rgba(made / "candidates" / f"{record['chosen']:03d}.png")
    inside = picture[3] > 0.99
    assert inside.any() and picture[3, 0, 0] == 0
    assert float((picture - chosen)[:3, inside].abs().mean()) < 0.05
    assert record["candidates"][record["chosen"]]["covered"] == pytest.approx(
        float(picture[3].mean()), abs=2e-3
    )


def test_the_same_seed_draws_the_same_pictures(made: Path, tmp_path: Path) -> None:
    command.main(["a red ball", str(tmp_path), "--count", "3", "--steps", "3"])
    for one, other in zip(sorted(made.rglob("*.png")), sorted(tmp_path.rglob("*.png")), strict=True):
        assert torch.equal(read_rgba(one), read_rgba(other)), one.name


def test_pictures_without_an_object_are_kept_to_look_at_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(command, "candidate_pictures", lambda model, args: noise)
    args = command.picture_arguments(["a red ball", str(tmp_path), "--count", "2"])
    with pytest.raises(UserError, match=r"none of 2 pictures shows one object .*candidates\.png"):
        command.make_picture(args)
    assert (tmp_path / "candidates.png").is_file() and not (tmp_path / "picture.png").exists()


@pytest.mark.parametrize(
    "words", [["", "--count", "2"], ["a ball", "--count", "0"], ["a ball", "--steps", "0"]]
)
def test_settings_that_cannot_be_are_refused(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.picture_arguments([words[0], str(tmp_path), *words[1:]])


def test_what_to_type_next_is_what_a_shell_takes(capsys):
    command._say_next(Path("my toys/a red ball/picture.png"))
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[3] == "system.guidance.image_path=my toys/a red ball/picture.png"


def test_a_sentence_that_the_model_does_not_know_is_told_before_anything_is_drawn(tmp_path, capsys):
    out = tmp_path / "out"
    assert command.main(["eine rote Tasse", str(out), "--count", "1"]) == 2
    assert "knows none of these words: 'eine'" in capsys.readouterr().err and not out.exists()
    assert command.main(["a red ball and " * 50, str(out), "--count", "1"]) == 2
    assert "tokens; expected at most" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_a_model_is_opened(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    words = ["a red ball", str(tmp_path / "file" / "out"), "--model", "no-such-model"]
    assert command.main(words) == 2
    assert "could not be written" in capsys.readouterr().err
