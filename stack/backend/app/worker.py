"""The Celery worker: it processes a new drawing and writes the outcome to the drawing's row."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import heartbeat_sent, worker_process_init, worker_ready
from celery.utils.log import get_task_logger
from sqlalchemy.exc import OperationalError

from app.database import engine, session_factory
from app.models import Drawing
from app.settings import broker_url

log = get_task_logger(__name__)

# Touched while the worker talks to the broker; the container's healthcheck looks at its age, which is far
# cheaper than a Celery ping every few seconds.
HEARTBEAT = Path("/tmp/worker.heartbeat")
READABLE = {".pdf", ".dwg", ".dxf"}

celery_app = Celery("drawing", broker=broker_url())
celery_app.conf.update(
    task_ignore_result=True,  # the drawing's row is the result
    task_acks_late=True,  # a killed worker's task is run again
    task_publish_retry_policy={"max_retries": 2},
    broker_connection_retry_on_startup=True,
)


@worker_process_init.connect
def forget_inherited_connections(**_: Any) -> None:
    """Sockets must not be shared between the parent and its forked processes."""
    engine.dispose(close=False)


@worker_ready.connect
@heartbeat_sent.connect
def touch_heartbeat(**_: Any) -> None:
    HEARTBEAT.touch()


@celery_app.task(autoretry_for=(OperationalError,), retry_backoff=True, max_retries=10)
def process_drawing(drawing_id: str) -> None:
    with session_factory() as db:
        drawing = db.get(Drawing, uuid.UUID(drawing_id))
        if drawing is None:
            log.warning("Drawing %s is gone; nothing to process", drawing_id)
            return
        drawing.processing_status = "processing"
        db.commit()
        readable = Path(drawing.file_path).suffix.lower() in READABLE
        drawing.processing_status = "completed" if readable else "failed"
        drawing.details = {**drawing.details, "processed_by": "celery"}
        db.commit()
        log.info("Drawing %s is %s", drawing_id, drawing.processing_status)
