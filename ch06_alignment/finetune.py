"""From the pretrained model to an assistant: supervised fine-tuning, a report card, and the cache.

>>> model, tokenizer = assistant()      # trained on first use, which pretrains first if need be
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

