"""Pictures of activations and heat maps: contact sheets, overlays, colormaps."""
