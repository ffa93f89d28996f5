"""Export of networks to verified files of several runtimes, and their evaluation."""

from mobilenas.export.deployable import Calibration
from mobilenas.export.evaluate import Evaluation, evaluate, evaluation_images, load_images
from mobilenas.export.options import make_form
from mobilenas.export.verify import Parity, Verification, verify
from mobilenas.export.write import Report, export_network
from mobilenas.runtimes.base import Form
from mobilenas.runtimes.registry import RUNTIMES, make_runtime

__all__ = [
    "RUNTIMES",
    "Calibration",
    "Evaluation",
    "Form",
    "Parity",
    "Report",
    "Verification",
    "evaluate",
    "evaluation_images",
    "export_network",
    "load_images",
    "make_form",
    "make_runtime",
    "verify",
]
