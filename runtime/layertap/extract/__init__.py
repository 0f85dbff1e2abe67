"""Collections of images: finding, reading and measuring them."""
