"""Indexes as static nn.Modules, for any PyTorch serving stack: TorchScript, torch.export, ONNX, .pt, safetensors (docs/serving.md)."""

from tsscompat.modules import convert_codes as convert_codes
from tsscompat.modules.convert import from_faiss
from tsscompat.modules.part import from_spec
from tsscompat.modules.searcher import Searcher, load

__all__ = ["Searcher", "from_faiss", "from_spec", "load"]
