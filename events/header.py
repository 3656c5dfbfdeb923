"""Names of message headers, NATS' and ours. Every one that AgentCom uses stands here."""

from __future__ import annotations

from typing import Final

EXPECTED_LAST: Final = "Nats-Expected-Last-Subject-Sequence"
"""On a publish: store it only where its subject stands at this sequence."""
MESSAGE_TTL: Final = "Nats-TTL"
"""On a publish: forget it after so long (`5s`)."""
ROLL_UP: Final = "Nats-Rollup"
"""On a publish: what its subject held before is forgotten (`sub`)."""
BATCH_ID: Final = "Nats-Batch-Id"
BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
BATCH_COMMIT: Final = "Nats-Batch-Commit"

SEQUENCE: Final = "Nats-Sequence"
"""On what a stream hands out: its place there."""
SUBJECT: Final = "Nats-Subject"
"""The same: the subject it was published on."""
TIME_STAMP: Final = "Nats-Time-Stamp"
"""The same: when it was stored."""
LAST_CONSUMER: Final = "Nats-Last-Consumer"
"""On a consumer's heartbeat: the number of the last message that it sent."""
PENDING_MESSAGES: Final = "Nats-Pending-Messages"
"""On the end of a request to a consumer: how many messages it was still to bring."""
NUM_PENDING: Final = "Nats-Num-Pending"
"""At the end of a batch of direct get: how many more there are."""

SERVICE_ERROR: Final = "Nats-Service-Error"
SERVICE_ERROR_CODE: Final = "Nats-Service-Error-Code"
"""On the answer to a request that was refused: why, and the HTTP status for it (ADR-32)."""

REQUEST_INFO: Final = "Nats-Request-Info"
"""Written by the server where a request crosses accounts: who asked, as JSON."""
REQUESTER: Final = "AgentCom-Requester"
"""Written by web: the person who gave the command that it passes on. The gateway believes
it from inside the core account alone."""

PAGE_ORIGIN: Final = "AgentCom-Page"
"""On the dashboard page's HTTP requests: the origin that the page is of."""

SIMULATED: Final = "X-AgentCom-Simulated"
"""On a simulated backend's HTTP answers, so that everything built on them says so."""
