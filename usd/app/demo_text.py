"""``usd demo-text "a red car with a blue roof"``: a sentence to a textured mesh, in three stages.

Runs ``configs/usd-text-to-3D-mini.yaml`` and says how well the mesh is recognized. The same sentence again skips
what is done. ``key=value`` arguments are passed on to the launcher.
"""

import argparse
import time
from collections.abc import Mapping

from usd.app.callbacks import peak_memory_gib
from usd.app.experiment import Outcome, short_path
from usd.app.stages import run_stages
from usd.core import places, process
from usd.core.console import say
from usd.core.loading import is_override, override
from usd.evaluation.text_score import TextScore, score_file

CONFIG = places.resource("configs/usd-text-to-3D-mini.yaml")
SENTENCE = "a red car with a blue roof"


def run_text_demo(sentence: str, overrides: list[str], gpu: str | None) -> dict[str, Outcome]:
    """All stages for one sentence; returns what each left."""
    prompt = override("system.prompt_processor.prompt", sentence)
    return run_stages("train", [CONFIG], [prompt, *overrides], gpu)


def text_report(outcomes: Mapping[str, Outcome], score: TextScore, began: float) -> str:
    """Return a text on the object made of a sentence: the files, and how well it is recognized."""
    peak = peak_memory_gib()
    lines = [f"{name:<10}  {short_path(outcome.trial.folder)}" for name, outcome in outcomes.items()]
    lines += [f"{'file':<10}  {short_path(file)}" for file in outcomes["mesh"].files]
    lines.append(f"{'took':<10}  {(time.monotonic() - began) / 60:.1f} minutes, {peak:.1f} GiB at most")
    return "\n".join([*lines, f"{'text score':<10}  {score.line()}"])


def main(argv: list[str] | None = None) -> int:
    """Run ``usd demo-text``: an object from a sentence; return the exit code."""
    parser = argparse.ArgumentParser(prog="usd demo-text", description=__doc__)
    parser.add_argument("sentence", nargs="?", default=SENTENCE, help=f"by default '{SENTENCE}'")
    parser.add_argument("--gpu", help="0, or cpu; by default the first GPU, else the CPU")
    args, overrides = parser.parse_known_args(argv)
    if is_override(args.sentence):
        args.sentence, overrides = SENTENCE, [args.sentence, *overrides]
    return process.run_command(lambda: make_text_demo(args.sentence, overrides, args.gpu))


def make_text_demo(sentence: str, overrides: list[str], gpu: str | None) -> None:
    """Make the object and print how well it is recognized. Raises ``UserError``."""
    began = time.monotonic()
    outcomes = run_text_demo(sentence, overrides, gpu)
    score = score_file(outcomes["mesh"].files[0], sentence)
    say(text_report(outcomes, score, began))


if __name__ == "__main__":
    process.start(main)
