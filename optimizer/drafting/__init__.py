"""The first spec of a study, drafted from what the files and this machine are."""
