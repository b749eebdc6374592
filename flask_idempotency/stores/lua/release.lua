-- Give the key back. The record keeps its fingerprint, its count of attempts and its steps. A repeat recognises its own
-- token.
--
-- KEYS  the record
-- ARGV  token, retention in milliseconds
--
-- Returns  1 where it is given back, or gone;  0 where it is completed, or another's
local record = KEYS[1]

local found = redis.call('HMGET', record, 'state', 'token', 'lease_ends')
local state = found[1]

if not state then
    return 1
end
if found[2] ~= ARGV[1] or state == 'completed' then
    return 0
end
if state == 'answering' then
    -- Where its lease has ended, it is done.
    local time = redis.call('TIME')
    if tonumber(found[3]) <= time[1] * 1000 + math.floor(time[2] / 1000) then
        return 0
    end
end
-- A server that is out of memory takes no new fields, unless a script has written something else before.
redis.call('PEXPIRE', record, ARGV[2])
redis.call('HSET', record, 'state', 'released')
return 1
