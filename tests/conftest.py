"""Every shape in every signature is checked while the tests run."""

from jaxtyping import install_import_hook

CHAPTERS = [
    "ch01_overview",
    "ch02_tokenization",
    "ch03_attention",
    "ch04_model",
    "ch05_pretraining",
    "ch06_alignment",
    "appendix_performance",
]
install_import_hook(CHAPTERS, "beartype.beartype")
