"""Says so when a Redis server may drop records that are still needed."""

# mypy: allow-untyped-calls
# redis-py declares some of its methods without types.

import logging

import redis

from .redis_url import Client

logger = logging.getLogger("flask_idempotency")


def warn_of_eviction(client: Client, where: str) -> None:
    """Warn, once per server, where its eviction policy can drop live records.

    The policy is read from `INFO memory`, since managed services forbid `CONFIG`; where even that is forbidden, the
    log says that nobody looked. Raises redis-py's errors where the server cannot be reached.
    """
    for server in _servers(client):
        try:
            memory = server.info("memory")
        except redis.ResponseError:
            logger.info("Redis at %s does not tell its maxmemory-policy: see that it is noeviction.", where)
            return
        assert isinstance(memory, dict)
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            when = "when its memory is full" if memory.get("maxmemory") else "as soon as maxmemory is set and reached"
            logger.warning(
                "Redis at %s has the maxmemory-policy %s: %s, it drops records of requests that are running or done, "
                "and their retries run again. Set it to noeviction.",
                where,
                policy,
                when,
            )
            return


def _servers(client: Client) -> list[redis.Redis]:
    if isinstance(client, redis.RedisCluster):
        return [client.get_redis_connection(node) for node in client.get_primaries()]
    return [client]
