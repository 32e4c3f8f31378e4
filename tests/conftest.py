"""Every shape in every signature is checked while the tests run."""

import torch
from jaxtyping import install_import_hook

CHAPTERS_WITH_TENSORS = [
    "ch03_attention",
    "ch04_model",
    "ch05_pretraining",
    "ch06_alignment",
    "appendix_performance",
]
install_import_hook(CHAPTERS_WITH_TENSORS, "beartype.beartype")
torch.set_num_threads(
    1
)  # tests are small: on a busy machine two threads mostly wait for each other
