"""The progress of a long step as an artifact on its page in Prefect."""

import time
from contextlib import suppress
from contextvars import copy_context
from threading import Thread
from uuid import UUID

from flows.orchestration.artifacts import artifact_key
from flows.tracking.outages import SENDER
from pipelines.visible import in_markdown

EVERY = 5.0  # seconds between two updates, and before the first


class ProgressArtifact:
    """A bar in Prefect that shows how far a step is. A thread sends it, so that no step waits for the server.

    A step that is done sooner has none. An update that does not reach the server is left out.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._id: UUID | None = None
        self._sent_at = time.monotonic()
        self._sender: Thread | None = None

    def show(self, share: float, text: str) -> None:
        """Show how far the step is, at most every few seconds.

        Args:
            share: what is done of it, from 0 to 1.
            text: the same in words.
        """
        if time.monotonic() - self._sent_at > EVERY and not (self._sender and self._sender.is_alive()):
            self._start(share, text)

    def finish(self, text: str) -> None:
        """Show that the step is done."""
        if self._sender:
            self._start(1, text)

    def _start(self, share: float, text: str) -> None:
        self._sent_at = time.monotonic()
        arguments = (self._send, self._sender, share, text)
        # The context names the task run. The thread is a daemon, so that a hanging call keeps no process from ending.
        self._sender = Thread(target=copy_context().run, args=arguments, name=SENDER, daemon=True)
        self._sender.start()

    def _send(self, before: Thread | None, share: float, text: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if before:
            before.join()
        percent, description = round(100 * min(share, 1), 1), in_markdown(f"{self.title}: {text}")
        with suppress(Exception):
            if self._id is None:
                key = artifact_key(f"{self.title}-progress")
                self._id = create_progress_artifact(percent, key=key, description=description)  # type: ignore[assignment]
            else:
                update_progress_artifact(self._id, percent, description)
