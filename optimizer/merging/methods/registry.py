"""The function of each merge method, by name. studies/recipe/methods.py describes the methods and their slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from optimizer.merging.methods import elementwise, reductions, slices, sparse, spectral

# (inputs, one value per slot) -> result: float32, of the inputs' shape; inputs are not changed
Method = Callable[[Sequence[Tensor], Sequence[float]], Tensor]
# ... and one tensor of uniform numbers in [0, 1) for each input but the first
RandomMethod = Callable[[Sequence[Tensor], Sequence[float], Sequence[Tensor]], Tensor]

FUNCTIONS: Mapping[str, Method] = {
    "weighted_sum": elementwise.weighted_sum,
    "n_average": elementwise.n_average,
    "add_difference": elementwise.add_difference,
    "sum_twice": elementwise.sum_twice,
    "triple_sum": elementwise.triple_sum,
    "task_arithmetic": elementwise.task_arithmetic,
    "weighted_subtraction": elementwise.weighted_subtraction,
    "multiply_difference": elementwise.multiply_difference,
    "similarity_add_difference": elementwise.similarity_add_difference,
    "train_difference": elementwise.train_difference,
    "geometric": elementwise.geometric,
    "tensor_sum": slices.tensor_sum,
    "top_k_tensor_sum": slices.top_k_tensor_sum,
    "slerp": reductions.slerp,
    "cosine_a": reductions.cosine_a,
    "cosine_b": reductions.cosine_b,
    "perpendicular": reductions.perpendicular,
    "euclidean_add_difference": reductions.euclidean_add_difference,
    "model_stock": reductions.model_stock,
    "geometric_median": reductions.geometric_median,
    "ties": sparse.ties,
    "breadcrumbs": sparse.breadcrumbs,
    "breadcrumbs_ties": sparse.breadcrumbs_ties,
    "sce": sparse.sce,
    "distribution_crossover": spectral.distribution_crossover,
    "rotate": spectral.rotate,
}

RANDOM_FUNCTIONS: Mapping[str, RandomMethod] = {
    "dare_linear": sparse.dare_linear,
    "dare_ties": sparse.dare_ties,
    "della_linear": sparse.della_linear,
    "della": sparse.della,
}
