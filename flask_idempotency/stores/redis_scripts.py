"""The decisions of the Redis store as the server runs them: one Lua script each."""

from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files

from .redis_wire import pack_some


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, the digest that the server knows it by, and how a command that runs it begins."""

    text: bytes
    digest: bytes = field(init=False)
    packed: bytes = field(init=False)

    def __post_init__(self) -> None:
        digest = sha1(self.text, usedforsecurity=False).hexdigest().encode()
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "packed", pack_some((b"EVALSHA", digest, b"1")))

    @classmethod
    def load(cls, name: str) -> "Script":
        """The script `lua/<name>.lua` of this package."""
        return cls(files(__package__).joinpath("lua", f"{name}.lua").read_bytes())


@dataclass(slots=True)
class Call:
    """A script, the one record it decides on, and its arguments."""

    script: Script
    key: bytes
    arguments: tuple[bytes, ...]

    def by_digest(self) -> tuple[bytes, ...]:
        """The arguments of the `EVALSHA` that runs the script where the server knows it."""
        return (self.script.digest, b"1", self.key, *self.arguments)

    def by_digest_packed(self) -> bytes:
        """The whole `EVALSHA`, packed: most of it was so before."""
        parts = (self.key, *self.arguments)
        return b"*%d\r\n%b%b" % (3 + len(parts), self.script.packed, pack_some(parts))

    def by_text(self) -> tuple[bytes, ...]:
        """The arguments of the `EVAL` that brings the script along and runs it.

        On the one server that it is for, in one round trip; SCRIPT LOAD would be one more.
        """
        return (self.script.text, b"1", self.key, *self.arguments)


ABANDON = Script.load("abandon")
ANSWERING = Script.load("answering")
BEGIN_STEP = Script.load("begin_step")
CLAIM = Script.load("claim")
COMPLETE = Script.load("complete")
DROP_STEP = Script.load("drop_step")
GIVE_BACK = Script.load("give_back")
KEEP_STEP = Script.load("keep_step")
LOAD_STEPS = Script.load("load_steps")
RELEASE = Script.load("release")
RENEW = Script.load("renew")
RESOLVE = Script.load("resolve")
