"""Pages that need nothing else: one HTML file, inline SVG, no script, no font, no address."""
