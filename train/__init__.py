"""Desktop: photos to crops, crops to an encoder, an encoder to figures.

TensorFlow model optimization needs Keras 2, and TensorFlow decides at its first import which Keras it brings: that
choice is made here, before any module of this package can import it.
"""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
