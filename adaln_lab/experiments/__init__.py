"""What the notebooks compare: residual schemes, conditioning mechanisms; the U-Net and the classifier for it."""
