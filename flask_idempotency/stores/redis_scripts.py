"""The decisions of the Redis store as the server runs them: one Lua script each."""

from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the digest that the server knows it by."""

    text: bytes
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha1(self.text, usedforsecurity=False).hexdigest())

    @classmethod
    def load(cls, name: str) -> "Script":
        """The script `lua/<name>.lua` of this package."""
        return cls(files(__package__).joinpath("lua", f"{name}.lua").read_bytes())


CLAIM = Script.load("claim")
COMPLETE = Script.load("complete")
RELEASE = Script.load("release")
RENEW = Script.load("renew")
