"""What votes say of the trials of a study: the model, and the objective that it gives the search."""
