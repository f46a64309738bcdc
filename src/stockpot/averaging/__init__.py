"""SFA: average the weights with the task's anchor while it trains."""

from stockpot.averaging.schedule import average_steps
from stockpot.averaging.sfa import SFA

__all__ = ["SFA", "average_steps"]
