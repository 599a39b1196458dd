"""Reference models for MUSDB18: Spleeter's U-Net and BLSTM, and Open-Unmix, trained, run and studied."""
