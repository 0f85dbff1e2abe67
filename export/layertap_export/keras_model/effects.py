"""TensorFlow's operations that do more than compute: they reach files, the network or Python."""

from __future__ import annotations

import re

SAVER = frozenset({"MergeV2Checkpoints", "RestoreSlice", "RestoreV2", "SaveSlices", "SaveV2"})
"""What a SavedModel saves and restores its variables with."""

TABLES_FROM_FILES = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
"""Operations that read a vocabulary; in a SavedModel, from one of its own files."""

_FILES = re.compile(
    r"(Experimental)?(CSV|Cache|FixedLengthRecord|LMDB|List\w*Chunks|Load|MatchingFiles|Save"
    r"|Snapshot\w*|Sql|TFRecord|TextLine)Dataset(V\d)?"
    r"|\w+Reader(V2)?|Reader\w+|(Read|Write)File|MatchingFiles|FileSystem\w+|RecordInput"
    r"|Save|Restore|DTensorRestoreV2|DistributedSave|LoadAndRemapMatrix|GenerateVocabRemapping"
    r"|(Experimental)?DatasetToTFRecord|DumpTensor|Debug\w+|CreateSummary\w+|SummaryWriter"
    r"|Write\w*Summary|ImportEvent|InitializeTableFromTextFile(V2)?"
)
_PYTHON = re.compile(r"(Eager)?PyFunc(Stateless)?")
_NETWORK = re.compile(
    r"Rpc\w+|DeleteRpc\w+|RemoteCall|DataService\w+|RegisterDataset(V2)?|_?(Host)?(Send|Recv)"
    r"|_Nccl\w+|Collective\w+|XlaHostCompute|_Xla(Send|Recv)\w*|Xla(Send|Recv)\w*"
)
_NATIVE = re.compile(r"XlaCustomCall(V2)?")


def effect_of(operation: str, stream: str = "") -> str:
    """What an operation does besides computing: a verb phrase; empty if it only computes.

    Args:
        operation: TensorFlow's name of the operation.
        stream: for `PrintV2`, where it prints to.
    """
    if operation in SAVER or _FILES.fullmatch(operation):
        return "reads or writes files"
    if operation == "PrintV2" and stream.startswith("file:"):
        return "writes files"
    if _PYTHON.fullmatch(operation):
        return "calls Python code"
    if _NETWORK.fullmatch(operation):
        return "communicates with other programs"
    if _NATIVE.fullmatch(operation):
        return "calls native code"
    return ""
