"""alphabar: diffusion and latent diffusion, small, exact, fast."""

__version__ = "0.1.0"
