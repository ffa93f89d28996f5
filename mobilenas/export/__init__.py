"""Export of networks to verified ONNX files."""

from mobilenas.export.onnx import Report, export_onnx
from mobilenas.export.verify import Parity, Verification, VerificationFailed, verify_onnx

__all__ = [
    "Parity",
    "Report",
    "Verification",
    "VerificationFailed",
    "export_onnx",
    "verify_onnx",
]
