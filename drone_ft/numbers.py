"""Numbers in people's words: whether a text says one, as digits or spelled out, in its own unit or in a larger one."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from num2words import num2words

LARGEST = 1e15  # beyond it nobody says a number otherwise than digit by digit
_IDIOMS = {1: ("a", "an", "once", "single"), 2: ("twice", "both", "couple", "pair"), 12: ("dozen",)}
# What the words must hold when a number is said in a larger unit than its own, and how many of its own that is.
_UNITS: tuple[tuple[re.Pattern[str], float], ...] = tuple(
    (re.compile(words), size)
    for words, size in (
        (r"\bmin(ute)?s?\b|\d ?min\b", 60),
        (r"hours?\b|\bhrs?\b|\d ?h\b", 3600),
        (r"hours?\b|\bhrs?\b|\d ?h\b", 60),
        (r"\bdays?\b", 24),
        (r"\bdays?\b", 86400),
        (r"\bweeks?\b", 7),
        (r"\byears?\b", 12),
        (r"\d ?k\b|km\b|kg\b|kilo|thousand|\bgrand\b|litre|liter|\d ?l\b|\bseconds?\b|\d ?s\b", 1000),
        (r"metre|meter|\d ?m\b|dollars?|euros?|pounds?|[$€£]|hundred", 100),
        (r"million|\d ?m\b|mega", 1_000_000),
        (r"%|per ?cent", 0.01),
        (r"\bdozen", 12),
    )
)


class Said:
    """The numbers a text says."""

    def __init__(self, words: str) -> None:
        self._text = words
        digits = re.findall(r"\d+(?:\.\d+)?|(?<!\d)\.\d+", words)
        digits += [text.replace(",", "") for text in re.findall(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", words)]
        digits += [text.replace(",", ".") for text in re.findall(r"\d+,\d+", words)]
        self._digits = {float(text) for text in digits}
        self._words = f" {_spelled(words)} "

    def says(self, number: float) -> bool:
        """Whether the number is said; its sign may be hidden in a word such as "down"."""
        size = abs(number)
        if size > LARGEST:
            return str(size) in self._text
        return self._names(size) or any(self._counts(size, unit) for unit in self._units)

    @functools.cached_property
    def _units(self) -> list[float]:
        """How large the units are that the words name."""
        text = self._text.casefold()
        return [size for words, size in _UNITS if words.search(text)]

    def _counts(self, size: float, unit: float) -> bool:
        """Whether the number is said in a unit, alone or with what is left of it: two minutes and ten seconds."""
        whole, rest = divmod(size, unit)
        both = bool(whole and rest) and unit > 1 and self._names(whole) and self.says(rest)
        return both or self._names(round(size / unit, 6))

    def _names(self, size: float) -> bool:
        if size in self._digits or any(f" {way} " in self._words for way in _ways(size)):
            return True
        whole, part = divmod(size, 1)
        if part not in (0.25, 0.5, 0.75):
            return False
        word = " half " if part == 0.5 else " quarter"
        return word in self._words and (whole <= 1 or self._names(whole))


def says(words: str, number: float) -> bool:
    """Whether words say a number, its sign aside."""
    return Said(words).says(number)


def _spelled(words: str) -> str:
    plain = " ".join(re.sub(r"[^\w]+", " ", words.casefold()).replace(" and a ", " ").split())
    return re.sub(r"\band ", "", re.sub(r"\ba (hundred|thousand|million)\b", r"one \1", plain))


@functools.lru_cache(maxsize=20_000)
def _ways(size: float) -> tuple[str, ...]:
    """How people write a number in words."""
    return tuple(_written(size)) if size <= LARGEST else ()


def _written(size: float) -> Iterator[str]:
    whole = int(size)
    if whole != size:
        yield _spelled(str(num2words(size)))
        return
    yield _spelled(str(num2words(whole)))
    if whole % 100 == 0 and 1000 < whole < 10_000:
        yield f"{_spelled(str(num2words(whole // 100)))} hundred"
    yield from _IDIOMS.get(whole, ())
