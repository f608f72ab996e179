"""Trains the face detector: an anchor-free network that learns from YuNet's faces (docs/detector.md)."""
