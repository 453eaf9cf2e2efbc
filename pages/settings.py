"""Settings: where models live, and the keys for them."""

from drone_ft.ui import connections, frame

frame.head(
    "Settings", "Where models live: on this computer, or at a service. Every page works the same with each of them."
)
connections.cards()
connections.adder()
