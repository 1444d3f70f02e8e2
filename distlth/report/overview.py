"""The former place of the overview, which is in `facts.overview` and `report.console` now."""

from distlth.facts.overview import RunRow, no_runs, read_row, rows_to_json
from distlth.report.console import overview_table, watch_rows

__all__ = ["RunRow", "no_runs", "overview_table", "read_row", "rows_to_json", "watch_rows"]
