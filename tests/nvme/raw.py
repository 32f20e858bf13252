"""Commands as no driver sends them: any bytes, any doorbell."""

from __future__ import annotations

from drivebay.controllers.nvme.structures import SQE_SIZE, Command
from drivebay.drivers.nvme import NvmeDriver, QueuePair

__all__ = ["send", "sent", "status"]


def sent(
    queue: QueuePair,
    opcode: int,
    nsid: int = 1,
    *dwords: int,
    prp1: int = 0,
    prp2: int = 0,
    flags: int = 0,
    cid: int | None = None,
) -> int:
    """Put any command; its id."""
    number = queue.next_id() if cid is None else cid
    words = (*dwords, 0, 0, 0, 0, 0, 0)[:6]
    return queue.put(Command(opcode, flags, number, nsid, 0, 0, 0, prp1, prp2, *words))


def status(queue: QueuePair, cid: int) -> int:
    """How a command ended: its type and code."""
    return queue.wait(cid).status >> 1 & 0x7FF


def send(queue: QueuePair, opcode: int, nsid: int = 1, *dwords: int, **options: int) -> int:
    """Put, ring, wait: how it ended."""
    cid = sent(queue, opcode, nsid, *dwords, **options)
    queue.ring()
    return status(queue, cid)


def put_bytes(driver: NvmeDriver, queue: QueuePair, data: bytes) -> None:
    """Any 64 bytes as a command."""
    driver.memory.view(queue.sq + SQE_SIZE * queue.tail, SQE_SIZE)[:] = data
    queue.tail = (queue.tail + 1) % queue.size
