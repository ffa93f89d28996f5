"""Export of networks to verified ONNX files."""

from mobilenas.export.onnx import Accuracy, Report, export_onnx
from mobilenas.export.verify import Parity, Verification, VerificationFailed, verify_onnx

__all__ = [
    "Accuracy",
    "Parity",
    "Report",
    "Verification",
    "VerificationFailed",
    "export_onnx",
    "verify_onnx",
]
