-- Prolong a claim. What is completed or given back stays as it is.
--
-- KEYS  the record
-- ARGV  token, lease in milliseconds
--
-- Returns  1, or 0: fenced
local record, lease = KEYS[1], tonumber(ARGV[2])

local found = redis.call('HMGET', record, 'state', 'token', 'retention')
local state = found[1]

if not state then
    return 1
end
if found[2] ~= ARGV[1] then
    return 0
end
if state ~= 'running' and state ~= 'answering' then
    return 1
end
-- The record must outlive its lease: a claim that expired could not be told from one that never was. One that is
-- answering is done when its lease ends, and is kept from then on.
local lifetime = lease
if state == 'answering' then
    lifetime = lease + found[3]
end
local left = redis.call('PTTL', record)
-- A server that is out of memory takes no new fields, unless a script has written something else before.
if left < 0 then
    redis.call('PERSIST', record)
else
    redis.call('PEXPIRE', record, string.format('%.0f', math.max(left, lifetime)))
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', record, 'lease_ends', string.format('%.0f', now + lease))
return 1
