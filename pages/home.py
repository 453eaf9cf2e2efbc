"""Home: where the work stands, what comes next, and the demo of the whole way."""

from drone_ft.ui import frame, home

frame.head(
    "Teach a model your functions",
    "From a list of functions to a model that calls them. Write examples, train on this computer, see if it helped.",
)
stops = home.way()
home.cards(stops)
home.demo(stops)
home.next_step(stops)
