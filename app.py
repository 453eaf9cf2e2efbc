"""The app's frame: page list, sidebar, and the one place where an error becomes a sentence."""

from drone_ft.ui import frame, runs

page = frame.navigate()
with frame.boundary(say=False):  # what fails here fails on the page too, which says so
    frame.sidebar()
    runs.sidebar_status()
with frame.boundary():
    page.run()
