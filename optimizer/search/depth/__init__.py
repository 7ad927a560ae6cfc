"""The depth-aware sampler: Bayesian optimisation over the blocks of a U-Net in their order."""
