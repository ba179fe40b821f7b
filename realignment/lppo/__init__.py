"""L-PPO: layer-wise proximal policy optimisation (Bachu et al. 2025), all exits in one run."""
