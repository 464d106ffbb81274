"""All files that lissom writes: replaced as a whole, and read as if somebody else had made them.

    with alone_in(folder): …                 no other process writes there meanwhile
    with replacing(path) as beside: …        the writer, which all others below go through
    save_tensors, load_tensors               safetensors: tensors by name, a record in the header
    save_state, load_state                   nested tensors and plain values, by torch.save
    save_json, load_json                     one object
    append_event, read_events                one object on each line

What is described by a file is turned into tensors and plain values, and back, where it lives;
nobody else opens, checks or replaces a file. Each file says what it is ("lissom path 3") and has a
checksum of what it holds; `checked` compares plain values with the types that they should have.
"""

from lissom.storage.formats import checked
from lissom.storage.json_files import (
    append_event,
    append_line,
    keep_events,
    load_json,
    read_events,
    save_events,
    save_json,
    save_lines,
)
from lissom.storage.locking import LOCK, alone_in, make_folder
from lissom.storage.packing import pack, unpack
from lissom.storage.replacing import leftovers, remove, replace, replacing
from lissom.storage.states import load_state, save_state
from lissom.storage.stores import Store, is_url
from lissom.storage.tensors import load_tensors, mismatch, save_tensors

__all__ = [
    "LOCK",
    "Store",
    "alone_in",
    "append_event",
    "append_line",
    "checked",
    "is_url",
    "keep_events",
    "leftovers",
    "load_json",
    "load_state",
    "load_tensors",
    "make_folder",
    "mismatch",
    "pack",
    "read_events",
    "remove",
    "replace",
    "replacing",
    "save_events",
    "save_json",
    "save_lines",
    "save_state",
    "save_tensors",
    "unpack",
]
