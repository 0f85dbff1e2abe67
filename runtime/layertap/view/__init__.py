"""Pictures for people: contact sheets, overlays, colormaps."""
