"""Collections of images: finding them, reading them, measuring them."""
