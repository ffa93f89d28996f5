"""Export of networks to verified ONNX files, and their evaluation."""

from mobilenas.export.evaluate import Evaluation, evaluate, evaluation_images
from mobilenas.export.onnx import Report, export_onnx
from mobilenas.export.verify import Parity, Verification, verify_onnx

__all__ = [
    "Evaluation",
    "Parity",
    "Report",
    "Verification",
    "evaluate",
    "evaluation_images",
    "export_onnx",
    "verify_onnx",
]
