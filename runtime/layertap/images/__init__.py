"""From an image to the array that a model reads."""
