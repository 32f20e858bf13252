"""Modules `rbd` and `rados` with the shape of Ceph's: what they are asked ends on other threads."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["Ceph"]

OBJECT = 4096


class Completion:
    def __init__(self, result: int) -> None:
        self._result = result

    def get_return_value(self) -> int:
        return self._result


class Error(Exception):
    """rbd.Error; its OSError carries the number."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


class Ceph:
    """One pool ``p`` with images; `fault(name)` gives the errno that a call of `name` ends with."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.images: dict[tuple[str, str], bytearray] = {}
        self.objects: dict[tuple[str, str], set[int]] = {}
        self.locked: set[tuple[str, str]] = set()
        self.fault: Callable[[str], int] = lambda name: 0
        self.asked: list[str] = []
        self.open = 0
        self.rados_arguments: dict[str, Any] = {}
        patch.setitem(__import__("sys").modules, "rbd", self._rbd())
        patch.setitem(__import__("sys").modules, "rados", self._rados())

    def make(self, name: str, size: int, namespace: str = "") -> None:
        self.images[namespace, name] = bytearray(size)
        self.objects[namespace, name] = set()

    def _rbd(self) -> Any:
        ceph = self

        class Rbd:
            RBD_FEATURE_EXCLUSIVE_LOCK = 4
            RBD_LOCK_MODE_EXCLUSIVE = 0
            RBD_WRITE_ZEROES_FLAG_THICK_PROVISION = 1

            @staticmethod
            def Image(  # noqa: N802
                ioctx: Any, name: str, snapshot: str | None = None, read_only: bool = False
            ) -> Image:
                return Image(ceph, (ioctx.namespace, name), read_only)

        Rbd.Error = Error  # type: ignore[attr-defined]
        return Rbd

    def _rados(self) -> Any:
        ceph = self

        class IoCtx:
            namespace = ""

            def set_namespace(self, name: str) -> None:
                self.namespace = name

            def close(self) -> None:
                ceph.open -= 1

        class Rados:
            def __init__(self, **arguments: Any) -> None:
                ceph.rados_arguments = arguments

            def connect(self) -> None:
                if number := ceph.fault("connect"):
                    raise Error("error connecting to the cluster\nmore", number)

            def open_ioctx(self, pool: str) -> IoCtx:
                if pool != "p":
                    raise Error(f"[errno 2] error opening pool '{pool}'", errno.ENOENT)
                ceph.open += 1
                return IoCtx()

            def shutdown(self) -> None:
                pass

        class Module:
            pass

        Module.Rados, Module.Error = Rados, Error  # type: ignore[attr-defined]
        return Module


class Image:
    def __init__(self, ceph: Ceph, key: tuple[str, str], read_only: bool) -> None:
        if key not in ceph.images:
            raise Error(f"[errno 2] RBD image not found (error opening image {key[1]})", 2)
        self.ceph, self.key, self.read_only = ceph, key, read_only
        self.holds_lock = False
        ceph.open += 1

    @property
    def data(self) -> bytearray:
        return self.ceph.images[self.key]

    def size(self) -> int:
        self._fail("size")
        return len(self.data)

    def stat(self) -> dict[str, int]:
        return {"obj_size": OBJECT}

    def features(self) -> int:
        return 4

    def lock_acquire(self, mode: int) -> None:
        if self.key in self.ceph.locked:
            raise Error("[errno 30] error acquiring lock", errno.EROFS)
        self.ceph.locked.add(self.key)
        self.holds_lock = True

    def resize(self, size: int, allow_shrink: bool = True) -> None:
        self._fail("resize")
        data = self.data
        self.ceph.images[self.key] = data[:size] + bytes(max(size - len(data), 0))

    def close(self) -> None:
        self.ceph.open -= 1
        if self.holds_lock:
            self.ceph.locked.discard(self.key)

    def diff_iterate(
        self,
        offset: int,
        length: int,
        from_snapshot: str | None,
        iterate_cb: Callable[[int, int, bool], None],
        include_parent: bool = True,
        whole_object: bool = False,
    ) -> None:
        assert from_snapshot is None
        self._fail("diff_iterate")
        for number in sorted(self.ceph.objects[self.key]):
            if number * OBJECT < offset + length and (number + 1) * OBJECT > offset:
                iterate_cb(number * OBJECT, OBJECT, True)

    def aio_read(
        self,
        offset: int,
        length: int,
        oncomplete: Callable[[Completion, bytes | None], None],
        fadvise_flags: int = 0,
    ) -> Completion:
        data = bytes(self.data[offset : offset + length])
        return self._end(
            "read", len(data), lambda c: oncomplete(c, data if c.get_return_value() >= 0 else None)
        )

    def aio_write(
        self, data: bytes, offset: int, oncomplete: Callable[[Completion], None]
    ) -> Completion:
        assert type(data) is bytes  # Cython's char * takes nothing else
        if not self.ceph.fault("write"):
            self.data[offset : offset + len(data)] = data
            self._touch(offset, len(data))
        return self._end("write", 0, oncomplete)

    def aio_discard(
        self, offset: int, length: int, oncomplete: Callable[[Completion], None]
    ) -> Completion:
        first, last = -(-offset // OBJECT), (offset + length) // OBJECT
        for number in range(first, last):  # librbd skips parts of objects
            self.data[number * OBJECT : (number + 1) * OBJECT] = bytes(OBJECT)
            self.ceph.objects[self.key].discard(number)
        return self._end("discard", 0, oncomplete)

    def aio_write_zeroes(
        self,
        offset: int,
        length: int,
        oncomplete: Callable[[Completion], None],
        zero_flags: int = 0,
    ) -> Completion:
        self.data[offset : offset + length] = bytes(length)
        if zero_flags:
            self._touch(offset, length)
        return self._end("write_zeroes", 0, oncomplete)

    def aio_flush(self, oncomplete: Callable[[Completion], None]) -> Completion:
        return self._end("flush", 0, oncomplete)

    def _touch(self, offset: int, length: int) -> None:
        last = (offset + length - 1) // OBJECT
        self.ceph.objects[self.key].update(range(offset // OBJECT, last + 1))

    def _fail(self, name: str) -> None:
        if number := self.ceph.fault(name):
            raise Error(f"error in {name}", number)

    def _end(self, name: str, result: int, oncomplete: Callable[[Any], None]) -> Completion:
        self.ceph.asked.append(name)
        if number := self.ceph.fault(f"start {name}"):
            raise Error(f"error in {name}", number)
        completion = Completion(-self.ceph.fault(name) or result)
        threading.Thread(target=oncomplete, args=(completion,)).start()
        return completion
