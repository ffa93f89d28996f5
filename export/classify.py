"""Classify images with an exported model: needs numpy, onnxruntime and Pillow, nothing else.

Example: python classify.py model.onnx cat.jpg dog.png
"""

import argparse
import json

import numpy as np
import onnxruntime as ort
from PIL import Image


def load(
    path: str, resolution: int, short_side: int, mean: list[float], std: list[float]
) -> np.ndarray:
    """An image file as the network wants it: float32 (3, resolution, resolution)."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    width, height = (short_side * side // min(image.size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)  # antialiased
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    image = image.crop((left, top, left + resolution, top + resolution))
    scaled = np.asarray(image, dtype=np.float32) / 255
    normalised = (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)
    return normalised.transpose(2, 0, 1)


def main() -> None:
    """Print the three likeliest classes of each image, with their probabilities."""
    parser = argparse.ArgumentParser(description="Classify images with an exported model.")
    parser.add_argument("model", help="ONNX file written by mobilenas export")
    parser.add_argument("images", nargs="+", help="image files")
    arguments = parser.parse_args()

    session = ort.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    resolution = int(about["input_resolution"])
    short_side = int(about.get("input_short_side", resolution))  # older files do not say it
    normalisation = json.loads(about["input_normalisation"])
    classes = json.loads(about["classes"])

    files = arguments.images
    batch = np.stack([load(path, resolution, short_side, **normalisation) for path in files])
    (logits,) = session.run(["logits"], {"image": batch})
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)

    for path, row in zip(files, probabilities, strict=True):
        print(path)
        for index in np.argsort(-row, kind="stable")[:3]:
            print(f"  {row[index]:.4f}  {classes[index]}")


if __name__ == "__main__":
    main()
