-- Keep the answer. A repeat recognises its own token; a tombstone that comes late never replaces the response.
--
-- KEYS  the record
-- ARGV  token, retention in milliseconds, the packed response, or "" for a tombstone
--
-- Returns  1, or 0: fenced
local record = KEYS[1]
local token, retention, response = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', record, 'token') ~= token then
    return 0
end
-- The response first: a server that is out of memory refuses only the first write of a script, and the record must
-- not be left half completed.
if response ~= '' then
    redis.call('HSET', record, 'response', response)
end
redis.call('HDEL', record, 'lease_ends')
redis.call('PEXPIRE', record, retention)
return 1
