"""The contact sheets of a study: parents beside the best so far, beside the best, and beside the candidates."""
