"""Export of networks to verified files of several runtimes, and their evaluation."""

from mobilenas.export.evaluate import Evaluation, evaluate, evaluation_images, load_images
from mobilenas.export.form import Calibration, Form
from mobilenas.export.runtimes import RUNTIMES, make_form, make_runtime
from mobilenas.export.verify import Parity, Verification, verify
from mobilenas.export.write import Report, export_network

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
