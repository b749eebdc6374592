-- The outcome is unknown. The record has no expiry until somebody says what became of it.
--
-- KEYS  the record
-- ARGV  token
--
-- Returns  1, or 0: fenced, given back or done
local record = KEYS[1]

local found = redis.call('HMGET', record, 'state', 'token')
local state = found[1]

if found[2] ~= ARGV[1] or state == 'released' or state == 'completed' then
    return 0
end
redis.call('HSET', record, 'state', 'unknown')
redis.call('PERSIST', record)
return 1
