"""Reference models for MUSDB18. Reserved for the Spleeter U-Net and Open-Unmix; this release holds none."""
