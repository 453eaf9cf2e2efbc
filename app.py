"""The app's frame: page list, sidebar, and the one place where an error becomes a sentence."""

import streamlit as st

from drone_ft.ui import frame, runs

st.set_page_config(page_title="drone_ft", page_icon=frame.ICON, layout="wide")
page = st.navigation(frame.pages())
with frame.boundary():
    frame.sidebar()
    runs.sidebar_status()
with frame.boundary():
    page.run()
