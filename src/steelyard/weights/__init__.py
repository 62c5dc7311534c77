"""Lazy reading and atomic writing of checkpoints: safetensors, shards, remote stores, hashes. Torch-free."""

from steelyard.weights.checkpoint import Checkpoint
from steelyard.weights.dtypes import DTYPES, DType, dtype_name
from steelyard.weights.hashing import array_hash, bytes_hash, data_hash, file_hash
from steelyard.weights.header import Header, TensorInfo, read_header
from steelyard.weights.layout import Layout, LayoutFile, StoredTensor, entry_bytes_bound, plan_layout
from steelyard.weights.output import DiskFullError, check_output, staging_folder
from steelyard.weights.writer import FolderWriter

__all__ = [
    "DTYPES",
    "Checkpoint",
    "DType",
    "DiskFullError",
    "FolderWriter",
    "Header",
    "Layout",
    "LayoutFile",
    "StoredTensor",
    "TensorInfo",
    "array_hash",
    "bytes_hash",
    "check_output",
    "data_hash",
    "dtype_name",
    "entry_bytes_bound",
    "file_hash",
    "plan_layout",
    "read_header",
    "staging_folder",
]
