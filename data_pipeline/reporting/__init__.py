"""The report of a preprocessing job: `report.json`, `report.html` and its pictures in `report/`."""

from data_pipeline.reporting.files import write
from data_pipeline.reporting.page import page
from data_pipeline.reporting.reasons import in_one_line, reason_of
from data_pipeline.reporting.summary import summarise

__all__ = ["in_one_line", "page", "reason_of", "summarise", "write"]
