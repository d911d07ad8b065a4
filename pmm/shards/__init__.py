"""Items as 224x224 JPEG and tokens in WebDataset tars, sequences in tars; batches from them."""
