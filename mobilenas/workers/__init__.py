"""Work on many items at once: in this process, in several, or on a Ray cluster."""

from mobilenas.workers.asked import ONE_WORKER, WorkersAsked, open_workers
from mobilenas.workers.schedule import Outcome, Workers, even_groups

__all__ = ["ONE_WORKER", "Outcome", "Workers", "WorkersAsked", "even_groups", "open_workers"]
