"""The algorithm: knows no network, no pixels, no latents, no words."""
