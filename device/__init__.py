"""Omokage on the device: frames in, verdicts out. Nothing in here imports TensorFlow."""
