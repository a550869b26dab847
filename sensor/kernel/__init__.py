"""Load, attach and read the BPF programs; nothing here interprets an event."""
