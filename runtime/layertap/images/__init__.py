"""Reading images, and preprocessing them for a model."""
