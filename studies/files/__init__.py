"""The artifacts of studies: renders, contact sheets and features, in a folder or a bucket."""
