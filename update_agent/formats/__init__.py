"""Bytes or text to frozen values and back. Pure: no input or output, no clock, no randomness."""
