"""The merge engine: a recipe becomes a plan, which is carried out in memory (resident) or to a file (export)."""
