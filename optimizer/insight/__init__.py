"""What can be learned from a study: importance of parameters, pictures, comparison of two studies."""
