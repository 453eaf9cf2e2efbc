"""Home: where the work stands, what comes next, and the demo of the whole way."""

from drone_ft.ui import frame, home, session

frame.head(
    "Teach a model your functions",
    "From a list of functions to a model that calls them. Write examples, train on this computer, see if it helped.",
)
jobs = session.store().jobs()
stops = home.way(jobs)
home.cards(stops)
home.demo(stops, jobs)
home.next_step(stops)
