"""The files of an output folder besides its tensors, and how the folder is put in its place."""
