"""Faster CPU versions of depthwise convolution and ReLU6."""
