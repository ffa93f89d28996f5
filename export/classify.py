"""Classify images with an exported model: needs numpy, onnxruntime and Pillow, nothing else.

Example: python classify.py model.onnx cat.jpg dog.png
"""

import argparse
import json

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps


def load(path: str, resolution: int, short_side: int) -> np.ndarray:
    """The pixels of an image file that the network sees: uint8 (resolution, resolution, 3)."""
    with Image.open(path) as file:
        if file.mode[0] in "IF":  # convert would clip these to white
            raise SystemExit(f"{path}: pixels of type {file.mode}; there must be 8 bits a channel")
        image = ImageOps.exif_transpose(file.convert("RGB"))  # photos lie upright in training too
    width, height = (short_side * side // min(image.size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)  # antialiased
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    return np.asarray(image.crop((left, top, left + resolution, top + resolution)))


def normalised(pixels: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    """float32 (3, resolution, resolution) for a model that does not normalise by itself."""
    scaled = pixels.astype(np.float32) / 255
    return ((scaled - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(2, 0, 1)


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
    takes_bytes = about["input_layout"].startswith("NHWC")
    classes = json.loads(about["classes"])
    batch = int(about.get("batch", 1))  # a fixed one is filled with copies

    for path in arguments.images:
        image = load(path, resolution, short_side)
        if not takes_bytes:
            image = normalised(image, **json.loads(about["input_normalisation"]))
        logits = session.run(["logits"], {"image": np.stack([image] * batch)})[0][0]
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        print(path)
        for index in np.argsort(-probabilities, kind="stable")[:3]:
            print(f"  {probabilities[index]:.4f}  {classes[index]}")


if __name__ == "__main__":
    main()
