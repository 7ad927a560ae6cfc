"""Read how a picture was made out of its file, and put that into a spec."""
