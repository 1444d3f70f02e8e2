"""Python imports this module at its start, where this folder is on its path: loads the fault hook."""

import os

if folder := os.environ.get("DISTLTH_CHAOS"):
    from tests.chaos.hook import install

    install(folder)

if folder := os.environ.get("DISTLTH_STALE_VIEW"):
    from pathlib import Path

    from tests.chaos.stale_view import StaleView

    StaleView(Path(folder)).install()
