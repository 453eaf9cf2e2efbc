"""Numbers, measures and places as people say them: digits or words, units spelled several ways."""

from __future__ import annotations

import random

from num2words import num2words

FORMS = ("number", "digits", "signed", "adjective", "pair", "compass")

_UNITS = {
    "m": ((" m", "m", " metres", " meters"), (" metres", " meters")),
    "s": ((" seconds", "s", " s", " sec", " secs"), (" seconds", " secs")),
    "kmh": (
        (" km/h", "km/h", " kph", "kph", " kmh", " kilometres per hour", " kilometers per hour", " km per hour"),
        (" kilometers an hour", " kilometres an hour", " kilometers per hour", " klicks an hour", " km/h", " kph"),
    ),
    "deg": ((" degrees", "°", " deg"), (" degrees",)),
}
UNITS = (*_UNITS, "place", "choice", "count")
_ADJECTIVES = {"m": ("metre", "meter"), "s": ("second",), "kmh": ("km/h", "kph"), "deg": ("degree",)}
_DURATIONS = (
    5, 10, 15, 20, 20, 30, 30, 40, 45, 60, 60, 60, 90, 120, 120, 120, 150, 180, 180, 180, 240, 240, 300, 300, 300,
    360, 420, 480, 540, 600, 600, 600, 720, 900, 900, 1200, 1200, 1500, 1800, 1800, 2400, 2700, 3000, 3600,
)  # fmt: skip
"""Round ones in seconds; those that are said oftener stand here oftener."""
_HUNDREDS = {100: "a hundred", 1000: "a thousand"}


def number_words(value: int) -> list[str]:
    """A whole number in words, the British way first: "one hundred and twenty", "one hundred twenty"."""
    british = num2words(value).replace(",", "")
    ways = [british]
    if " and " in british:
        ways.append(british.replace(" and ", " "))
    if "-" in british:
        ways.append(british.replace("-", " "))
    if abs(value) in _HUNDREDS:
        ways.append(british.replace("one hundred", "a hundred").replace("one thousand", "a thousand"))
    elif 100 < value < 200 or 1000 < value < 2000:
        ways.append("a" + british.removeprefix("one"))
    return ways


def measures(value: int, unit: str) -> dict[str, list[str]]:
    """Every way to say a positive measure by kind: "digits", "words" and, for some values, "idiom"."""
    digit_units, word_units = _UNITS[unit]
    ways = {
        "digits": [f"{value}{_singular(word, value)}" for word in digit_units],
        "words": [f"{words}{_singular(word, value)}" for words in number_words(value) for word in word_units],
    }
    idiom = {"m": _kilometres, "s": _minutes}.get(unit, _none)(value)
    return {**ways, "idiom": idiom} if idiom else ways


def _singular(word: str, value: int) -> str:
    """The unit's word for one of it."""
    if value != 1:
        return word
    return word.replace("kilometers", "kilometer").replace("kilometres", "kilometre").removesuffix("s") or word


def _none(value: int) -> list[str]:
    return []


def _kilometres(metres: int) -> list[str]:
    if metres == 500:
        return ["half a kilometre", "half a kilometer", "0.5 km"]
    if metres < 1000 or metres % 100:
        return []
    number = f"{metres / 1000:g}"
    ways = [f"{number} km", f"{number}km", f"{number} kilometres", f"{number} kilometers"]
    if metres == 1000:
        return ["1 km", "1km", "a kilometre", "one kilometer", "a whole kilometer"]
    if metres % 1000 == 0:
        ways += [f"{num2words(metres // 1000)} kilometres", f"{num2words(metres // 1000)} kilometers"]
    if metres % 1000 == 500:
        ways += [f"{num2words(metres // 1000)} and a half kilometres"]
    return ways


def _minutes(seconds: int) -> list[str]:
    minutes, rest = divmod(seconds, 60)
    named = {
        30: ["half a minute", "half a min"],
        60: ["a minute", "one minute", "1 minute", "1 min"],
        90: ["a minute and a half", "one and a half minutes", "1.5 minutes", "a minute thirty"],
        900: ["a quarter of an hour", "fifteen minutes", "15 minutes"],
        1800: ["half an hour", "thirty minutes", "30 minutes"],
        3600: ["an hour", "one hour", "a full hour", "1 hour"],
    }
    if seconds in named:
        return named[seconds]
    if minutes < 1:
        return []
    words = num2words(minutes)
    if rest == 0:
        return [f"{minutes} minutes", f"{minutes} min", f"{minutes} mins", f"{words} minutes"]
    if rest == 30:
        return [f"{words} and a half minutes", f"{minutes}.5 minutes", f"{minutes} min 30 s"]
    plural = "minute" if minutes == 1 else "minutes"
    second = "second" if rest == 1 else "seconds"
    return [
        f"{minutes} {plural} {rest} {second}", f"{minutes} min {rest} s", f"{minutes} {plural} and {rest} {second}",
        f"{words} {plural} and {num2words(rest)} {second}",
    ]  # fmt: skip


def say_number(value: float, rng: random.Random, unit: str = "count", form: str = "") -> str:
    """A value as a person may say it; `form` "" gives number and unit, see FORMS for the others.

    "signed" keeps the sign ("-20", "minus twenty"); every other form says the value without its sign.
    """
    if form == "signed":
        return _signed(int(value), rng)
    size = abs(value)
    if form == "digits" or not float(size).is_integer():
        return f"{size:g}" if float(size).is_integer() else repr(size)
    whole = int(size)
    if form == "number" or (unit == "count" and not form):
        return rng.choice(number_words(whole)) if _in_words(whole, rng) else str(whole)
    if form == "adjective":
        return _adjective(whole, unit, rng)
    ways = measures(whole, unit)
    share = 0.85 if unit == "s" else 0.6
    kind = "idiom" if "idiom" in ways and rng.random() < share else "words" if _in_words(whole, rng) else "digits"
    return rng.choice(ways[kind])


def _in_words(value: int, rng: random.Random) -> bool:
    """Whether to spell a number out: people do it with short and round ones, hardly ever with 3,059."""
    share = 0.4 if value <= 100 or value % 100 == 0 else 0.25 if value < 300 else 0.08
    return rng.random() < share


def _signed(value: int, rng: random.Random) -> str:
    if rng.random() < 0.75:
        return rng.choice((str(value), str(value), f"{value:+d}")) if value > 0 else str(value)
    return rng.choice(number_words(value)) if value >= 0 else f"minus {rng.choice(number_words(-value))}"


def _adjective(value: int, unit: str, rng: random.Random) -> str:
    """A measure before a noun: "a 30-second clip", "a two minute clip"."""
    word = rng.choice(_ADJECTIVES[unit])
    if unit == "s" and value % 60 == 0 and rng.random() < 0.8:
        value, word = value // 60, "minute"
    elif unit == "m" and value >= 1000 and value % 100 == 0 and rng.random() < 0.6:
        return f"{value / 1000:g} km"
    number = rng.choice(number_words(value)) if _in_words(value, rng) else str(value)
    if number.startswith("a "):
        number = "one " + number.removeprefix("a ")
    return f"{number}{rng.choice((' ', '-'))}{word}"


def say_place(latitude: float, longitude: float, rng: random.Random, form: str = "") -> str:
    """Coordinates in degrees as a person may say them; south and west are negative in plain pairs."""
    pair = f"{latitude}, {longitude}"
    north, east = "S" if latitude < 0 else "N", "W" if longitude < 0 else "E"
    words = {"N": "north", "S": "south", "E": "east", "W": "west"}
    high, wide = abs(latitude), abs(longitude)
    pairs = [pair, pair, f"{latitude} {longitude}", f"({pair})", f"{latitude},{longitude}", f"[{pair}]"]
    named = [
        f"lat {latitude} lon {longitude}",
        f"latitude {latitude} and longitude {longitude}",
        f"latitude {latitude}, longitude {longitude}",
        f"lat {latitude}, lng {longitude}",
        f"lat: {latitude}, lon: {longitude}",
        f"{latitude} latitude, {longitude} longitude",
        f"{latitude} by {longitude}",
        f"{latitude} lat {longitude} long",
    ]
    compass = [
        *(f"{high} {words[north]}{between}{wide} {words[east]}" for between in (", ", " ", " and ")),
        f"{high} degrees {words[north]}, {wide} degrees {words[east]}",
        f"{high}° {words[north]}, {wide}° {words[east]}",
        f"{high}{north}, {wide}{east}",
        f"{high}°{north} {wide}°{east}",
        f"{high} {north}, {wide} {east}",
    ]
    return rng.choice(rng.choice({"pair": (pairs,), "compass": (compass,)}.get(form, (pairs, named, compass))))


def some_number(low: int, high: int, rng: random.Random, unit: str = "count") -> int:
    """A value between low and high as requests have them: often small or round, often neither."""
    rounds = {
        "s": _DURATIONS,
        "m": (5, 10, 15, 20, 30, 50, 75, 100, 120, 150, 200, 250, 300, 400, 500, 1000, 1200, 1500, 2000, 3000),
        "deg": (5, 10, 15, 20, 30, 40, 45, 60, 75, 80, 90, 120, 135, 180),
    }.get(unit, (5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100))
    fitting = [value for value in rounds if low <= value <= high]
    draw = rng.random()
    if fitting and draw < 0.6:
        return rng.choice(fitting)
    if low > 0 and draw < 0.93:
        value = min(high, max(low, round(float(low * (high / low) ** rng.random()))))
    else:
        value = rng.randint(low, high)
    whole = value // 60 * 60
    # who wants more than two minutes mostly counts in minutes
    return whole if unit == "s" and value > 120 and low <= whole and rng.random() < 0.8 else value


def some_place(rng: random.Random) -> tuple[float, float]:
    """A latitude and a longitude in degrees, mostly where people live, with one to six decimals."""
    places = rng.choice((1, 2, 2, 3, 4, 4, 4, 5, 6))
    latitude = rng.uniform(-56, 69) if rng.random() < 0.4 else rng.uniform(5, 60)
    longitude = rng.uniform(-179, 179)
    shortest = 10.0**-places
    return round(latitude, places) or shortest, round(longitude, places) or shortest
