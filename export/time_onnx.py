"""Time an ONNX model on this machine: needs numpy and onnxruntime, nothing else.

Prints the milliseconds of each run. Example: python time_onnx.py model.onnx --threads 4
"""

import argparse
import time

import numpy as np
import onnxruntime as ort

WARMUP_RUNS, MIN_RUNS = 5, 5


def main() -> None:
    """Run the model on one random input, again and again, on the CPU."""
    parser = argparse.ArgumentParser(description="Time an ONNX model, in milliseconds a run.")
    parser.add_argument("model", help="ONNX file with one input, float32 or uint8")
    parser.add_argument("--threads", type=int, default=1, help="threads to compute with [1]")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure [1]")
    arguments = parser.parse_args()

    options = ort.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(arguments.model, options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in image.shape]  # a free batch size: 1
    rng = np.random.default_rng(0)
    if image.type == "tensor(uint8)":  # of an export with --preprocess
        feed = {image.name: rng.integers(0, 256, shape, dtype=np.uint8)}
    else:
        feed = {image.name: rng.standard_normal(shape, dtype=np.float32)}

    for _ in range(WARMUP_RUNS):
        session.run(None, feed)
    times = []
    end = time.perf_counter() + arguments.seconds
    while len(times) < MIN_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feed)
        times.append(1e3 * (time.perf_counter() - start))
    print("\n".join(f"{ms:.6f}" for ms in times))


if __name__ == "__main__":
    main()
