"""Permutations: how many calls the catalog allows, and every one of them."""

from drone_ft.ui import frame, permutations, session

frame.head(
    "Permutations",
    "Every call the catalog allows. A model should meet each of them in training.",
)
current = session.store().catalog()
found = permutations.counts(current)
function, text, view = permutations.choose(current, found)
calls = permutations.listing(current, function, text, found)
permutations.browse(calls, view)
permutations.download(current, function, function.name if function else current.name)
