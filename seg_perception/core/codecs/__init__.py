"""The image file formats: what a header says, whether the file is whole, and its pixels."""
