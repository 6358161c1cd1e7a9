"""Features: their schema, their exact windows, and the store that keeps them."""
