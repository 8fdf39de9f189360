r"""TensorBoard's events in a file that can be cut back to where a run goes on from."""

__all__ = ["Events"]

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Events:
    r"""Writes scalars for TensorBoard, at once.

    torch's ``SummaryWriter`` writes from a thread, which neither survives a fork nor leaves a
    full disk to its caller, and always begins a new file.

    Arguments:
        path: The file.
        size: The size in bytes that the file is cut to first.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        path.touch()
        os.truncate(path, min(size, path.stat().st_size))
        if path.stat().st_size == 0:
            self._write([Event(wall_time=time.time(), file_version="brain.Event:2")])

    @property
    def size(self) -> int:
        r"""The size of the file in bytes."""
        return self.path.stat().st_size

    def write(self, values: Mapping[str, float], step: int) -> None:
        r"""Adds values by name at a step."""
        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write([Event(wall_time=time.time(), step=step, summary=Summary(value=found))])

    def _write(self, events: list[Event]) -> None:
        with self.path.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())
