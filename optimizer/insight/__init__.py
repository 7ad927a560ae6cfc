"""What a study tells beside its best trial: which blocks mattered, pictures, comparisons, the Pareto front."""
