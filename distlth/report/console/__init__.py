"""What the commands print, on a terminal or into a log."""

from distlth.report.console.comparison import comparison_view
from distlth.report.console.events import describe, describe_line
from distlth.report.console.exported import exported_view, masked_view
from distlth.report.console.imported import imported_view
from distlth.report.console.live import RunView
from distlth.report.console.measured import measured_table, times_table
from distlth.report.console.overview import overview_table, watch_rows
from distlth.report.console.plan import forecast_table, layers_table, plan_table, recipes_table
from distlth.report.console.predictions import predictions_table
from distlth.report.console.results import digests_table, points_table, results_table
from distlth.report.console.status import print_status, status_table, watch_status
from distlth.report.console.terminal import output_console, show

__all__ = [
    "RunView",
    "comparison_view",
    "describe",
    "describe_line",
    "digests_table",
    "exported_view",
    "forecast_table",
    "imported_view",
    "layers_table",
    "masked_view",
    "measured_table",
    "output_console",
    "overview_table",
    "plan_table",
    "points_table",
    "predictions_table",
    "print_status",
    "recipes_table",
    "results_table",
    "show",
    "status_table",
    "times_table",
    "watch_rows",
    "watch_status",
]
