-- Keep the answer; a record that is gone is inserted anew. A repeat recognises its own token, and a tombstone that comes
-- late never replaces the response.
--
-- KEYS  the record
-- ARGV  token, fingerprint, key, method, path, retention in milliseconds, the packed response, or "" for a tombstone
--
-- Returns  1, or 0: fenced
local record, token, response = KEYS[1], ARGV[1], ARGV[7]

local found = redis.call('HMGET', record, 'state', 'token')
local state = found[1]

if not state then
    redis.call('HSET', record, 'fingerprint', ARGV[2], 'token', token, 'number', 1,
        'key', ARGV[3], 'method', ARGV[4], 'path', ARGV[5])
elseif found[2] ~= token or state == 'released' then
    return 0
end
if response == '' then
    redis.call('HSET', record, 'state', 'completed')
else
    redis.call('HSET', record, 'state', 'completed', 'response', response)
end
redis.call('PEXPIRE', record, ARGV[6])
return 1
