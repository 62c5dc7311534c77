"""One purse: damage curves, the allocator that spends a budget of bytes, and the `fit` job."""

from steelyard.budget.allocator import Allocation, allocate, cheapest_improving_step, smallest
from steelyard.budget.curve import Curve, Point, total

__all__ = ["Allocation", "Curve", "Point", "allocate", "cheapest_improving_step", "smallest", "total"]
