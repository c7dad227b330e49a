"""PEFT's LoRA adapters in and out, kept as LoRA or merged.

    adapter_config.json          rank, alpha, targets
    adapter_model.safetensors    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
    non_lora_trainables.bin      what LLaVA trains beside LoRA (its projector)

    q_proj.lora_A.weight [r,in]  of every layer  ->  .../q/kernel_lora_a [layers,in,r]
    q_proj.lora_B.weight [out,r]                 ->  .../q/kernel_lora_b [layers,r,out]

There is no table of names here: the rows of the base's family say which kernel a module is. Where
their kernel is several of ours (GPT-2's fused q, k and v), each of ours gets all of A and its part
of B. What an adapter says by anything but A and B (DoRA, biases, changed base weights) is refused.

    config   AdapterConfig: adapter_config.json       names   of files and tensors
    read     read_adapter, with_adapter               write   save_adapter
"""

from .config import AdapterConfig, read_adapter_config
from .read import Adapter, adapter_tensors, read_adapter, with_adapter
from .write import save_adapter

__all__ = [
    "Adapter",
    "AdapterConfig",
    "adapter_tensors",
    "read_adapter",
    "read_adapter_config",
    "save_adapter",
    "with_adapter",
]
