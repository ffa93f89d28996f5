"""Export of networks to verified ONNX files."""

from mobilenas.export.onnx import Accuracy, Report, export_onnx
from mobilenas.export.verify import Parity, Verification, verify_onnx

__all__ = [
    "Accuracy",
    "Parity",
    "Report",
    "Verification",
    "export_onnx",
    "verify_onnx",
]
