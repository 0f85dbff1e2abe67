"""How far two results are apart: a file and its golden sample."""
