"""The families of models, as far as torch is not needed: one module for each, and the registry."""
