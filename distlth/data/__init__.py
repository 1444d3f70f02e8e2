"""Images on disk, packed into FFCV files, and the loaders that train and evaluate from them."""
