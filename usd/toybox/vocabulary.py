"""The words that the embedded models know, and the word-level tokenizer that numbers them."""

import difflib
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from usd.toybox.objects import VIEWS, make_toy
from usd.toybox.shapes import COLORS, PATTERNS, SHAPES

MAX_TOKENS = 32
SPECIAL = ("<pad>", "<start>", "<unknown>", "<end>")
EXTRA = (
    "and",
    "with",
    "from",
    "the",
    "above",
    "below",
    "view",
    "side",
    "overhead",
    "picture",
    "of",
    "normals",
    ",",
)
SURVEY = 60
"""Toys of each category whose captions are read for words; enough to meet every phrase of every shape."""


@runtime_checkable
class TokenNumbers(Protocol):
    """Numbers of words, as a tokenizer returns them."""

    input_ids: Tensor


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a ``transformers`` tokenizer that the embedded models use."""

    def __call__(self, text: list[str], **options: object) -> TokenNumbers:
        """Return the numbers of the words of texts."""

    def save_pretrained(self, save_directory: Path) -> object:
        """Write the tokenizer into a folder."""


@cache
def known_words() -> tuple[str, ...]:
    """Return all words, sorted: those of captions, views and prompts for views."""
    found = {*COLORS, *PATTERNS, *EXTRA, *(word for view in VIEWS for word in view.split())}
    for category in SHAPES:
        for seed in range(SURVEY):
            found.update(make_toy(seed, 0.0, category).caption.split())
    for seed in range(SURVEY):
        found.update(make_toy(seed, 1.0).caption.split())
    return tuple(sorted(found))


def make_tokenizer() -> Tokenizer:
    """Return a ``transformers`` tokenizer: lower case, words and commas, start and end, ``MAX_TOKENS`` long."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *known_words()])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=MAX_TOKENS,
        pad_token="<pad>",
        bos_token="<start>",
        unk_token="<unknown>",
        eos_token="<end>",
    )


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer into a folder, as ``transformers`` keeps it."""
    make_tokenizer().save_pretrained(folder)


def tokenize(tokenizer: Tokenizer, captions: list[str]) -> Int[Tensor, "B T"]:
    """Return token numbers (B, MAX_TOKENS)."""
    return tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


NEIGHBORS = {
    "red": "crimson scarlet ruby maroon cherry-red",
    "orange": "amber apricot copper",
    "yellow": "gold golden lemon",
    "green": "lime emerald olive",
    "teal": "turquoise cyan aqua",
    "blue": "navy azure indigo cobalt",
    "purple": "violet lilac lavender magenta",
    "pink": "rose salmon",
    "brown": "wooden wood beige tan bronze chocolate",
    "gray": "grey silver steel metal tin iron",
    "white": "ivory pale snowy",
    "black": "dark ebony",
    "car": "automobile van truck taxi bus vehicle cab",
    "boat": "ship yacht sailboat",
    "airplane": "plane aeroplane jet aircraft",
    "house": "home cottage hut building castle",
    "tree": "oak bush plant",
    "pine": "fir spruce conifer",
    "rocket": "spaceship spacecraft missile",
    "lamp": "lantern light",
    "mug": "cup beaker glass",
    "kettle": "teapot pot",
    "duck": "bird goose chicken swan",
    "owl": "eagle parrot",
    "dog": "puppy cat fox wolf animal",
    "fish": "shark whale goldfish",
    "robot": "android machine",
    "icecream": "cone sundae gelato",
    "bottle": "flask jar vase",
    "cake": "muffin cupcake pie",
    "sofa": "couch settee bench",
    "chair": "stool armchair seat throne",
    "table": "bench desk-top",
    "mushroom": "toadstool fungus",
    "snowman": "snowperson",
    "striped": "stripy lined",
    "checkered": "chequered checked",
    "dotted": "spotted speckled",
    "roof": "top",
    "wings": "feathers",
    "legs": "feet",
    "sail": "flag",
    "cap": "stopper",
    "label": "sticker",
    "shapes": "forms blocks",
}
"""Common words that the embedded models do not know, by the known word that comes nearest."""


def nearest_word(word: str, known: Collection[str]) -> str | None:
    """Return the known word nearest in meaning, where a table says one, else in spelling, if any is near."""
    word = word.lower()
    for singular in (word, word.removesuffix("s"), word.removesuffix("es")):
        meant = [name for name, others in NEIGHBORS.items() if singular in others.split()]
        found = next((name for name in [singular, *meant] if name in known), None)
        if found:
            return found
    spelt = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.72)
    return spelt[0] if spelt else None
