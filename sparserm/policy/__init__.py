"""Language-model policies: sampling, DPO training and the alignment loop."""
