"""What `layertap_export` offers: `export`, `verify`, `add_gradients`."""
