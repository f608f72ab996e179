"""Float to int8 to Edge TPU, and what the chip will do with it."""
