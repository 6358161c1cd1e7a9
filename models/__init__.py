"""Training, quantising and publishing the models. Needs the [train] extra; ``fraudgate`` never imports it."""
