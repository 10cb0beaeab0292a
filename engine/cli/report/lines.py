"""What people read of single events, each in one line."""

from __future__ import annotations

from dovetail.engine import events
from dovetail.engine.text import counted, format_size


def notice_line(event: events.Notice | events.Failed) -> str:
    """Say what happened."""
    if isinstance(event, events.Failed):
        return f"failed: {event.source}: {event.text}"
    return f"warning: {event.text}" if event.level == "warning" else event.text


def started_line(event: events.Started) -> str:
    """Say what will be done, and in how much memory."""
    return (
        f"{event.method}: {counted(event.tensors, 'tensor')}, reading {format_size(event.read_bytes)}, "
        f"writing {format_size(event.write_bytes)}, {counted(event.workers, 'worker')}, "
        f"at most {format_size(event.projected_bytes)} of {format_size(event.allowed_bytes)} allowed"
    )


def learnt_line(event: events.Trained, most: int = 3) -> str:
    """Give epochs, loss and accuracy, or only the first of these if there is no room for more."""
    right = "" if event.validation is None else f"{event.validation:.1%} right in validation"
    parts = [f"epoch {min(event.epoch + 1, event.epochs)} of {event.epochs}", f"loss {event.loss:.3f}", right]
    return "  ".join(parts[:most]).rstrip()


def rate_line(event: events.Progress, most: int = 3) -> str:
    """Give bytes, speed and memory, or only the first of these if there is no room for more."""
    speed = event.done_bytes / max(event.seconds, 1e-9) / 1e9
    done, total = format_size(event.done_bytes), format_size(event.total_bytes)
    parts = [f"{done} of {total}", f"{speed:.2f} GB/s", f"{format_size(event.resident_bytes)} resident"]
    return "  ".join(parts[:most])
