"""Multi-label supervised contrastive learning with recovered label distributions (MulSupConLD, arXiv 2501.19145)."""

__version__ = "0.1.0"
