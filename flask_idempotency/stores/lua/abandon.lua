-- The outcome is unknown. The record has no expiry until somebody says what became of it; one that is gone is inserted
-- anew.
--
-- KEYS  the record
-- ARGV  token, fingerprint, key, method, path
--
-- Returns  1, or 0: fenced or given back
local record, token = KEYS[1], ARGV[1]

local found = redis.call('HMGET', record, 'state', 'token', 'lease_ends')
local state = found[1]

if not state then
    redis.call('HSET', record, 'fingerprint', ARGV[2], 'token', token,
        'key', ARGV[3], 'method', ARGV[4], 'path', ARGV[5])
elseif found[2] ~= token or state == 'released' then
    return 0
elseif state == 'completed' then
    return 1
elseif state == 'answering' then
    -- Where its lease has ended, it is done.
    local time = redis.call('TIME')
    if tonumber(found[3]) <= time[1] * 1000 + math.floor(time[2] / 1000) then
        return 1
    end
end
-- A server that is out of memory takes no new fields, unless a script has written something else before.
redis.call('PERSIST', record)
redis.call('HSET', record, 'state', 'unknown')
return 1
